#pragma once

#include "data/data_stream.h"
#include "model/transformer.h"
#include "parallel/gradient_reducer.h"
#include "parallel/process_mesh.h"
#include "train/step_sums.h"

#include <functional>
#include <vector>

namespace pimoe {

/// What a step's gradients depend on besides weights and data. The same on every rank.
struct StepTerms {
  uint64_t seed = 0;          ///< of random draws
  int64_t step = 0;           ///< steps done before this one
  double step_tokens = 0.0;   ///< of the whole step over all ranks: what the mean of whatever each token has is divided by
  double step_targets = 0.0;  ///< of those the ones whose cross-entropy counts; at least 1
  double loss_scale = 1.0;
  RecomputePolicy recompute = RecomputePolicy::kNone;
  BalanceConfig balance;                  ///< coefficients of this step
  double temperature = 1.0;               ///< that the routers have in this step
  bool static_rows = false;               ///< see BatchContext
  const RoutingReplay* replay = nullptr;  ///< decisions that routers take instead of their own; null: none
};

/// @param first_sequence    this rank's first among those that all ranks compute in this step
/// @param global_sequences  of all ranks in this micro-step, shared out by StepPlan
/// @returns what a layer may know of whole sequences of S = `length` tokens
BatchContext batch_context(int64_t first_sequence, int64_t global_sequences, int64_t length, const ProcessMesh& mesh);

/// Of a step, over all ranks.
struct StepCounts {
  int64_t tokens = 0;   ///< positions that hold tokens, and do not fill up rows
  int64_t targets = 0;  ///< that count
};

/// @param batches  on the host. Collective: one sum of two numbers.
StepCounts step_counts(const std::vector<MicroBatch>& batches, const ProcessMesh& mesh);

/// @returns what a layer may know of a micro-batch in training
BatchContext training_context(const MicroBatch& batch, const StepTerms& terms, const ProcessMesh& mesh);

/// Sees each micro-step's forward pass.
using PredictionObserver = std::function<void(const MicroBatch& batch, const Prediction& prediction)>;

/// Forward pass, losses and backward of all of a step's micro-batches: afterwards each rank's bucket slices hold the sums of
/// loss_scale * gradient over micro-steps and ranks.
///
/// @param batches  this rank's; as many on every rank
/// @param seen     called after each forward pass; null: nobody looks
/// @returns what metrics are made of, still on the device
/// Collective over the mesh.
StepSums accumulate_gradients(const Transformer& model, GradientReducer& reducer, const ProcessMesh& mesh,
                              const std::vector<MicroBatch>& batches, const StepTerms& terms, const PredictionObserver& seen);

}  // namespace pimoe
