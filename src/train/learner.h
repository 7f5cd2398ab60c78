#pragma once

#include "moe/adaptive_control.h"
#include "moe/router_watch.h"
#include "parallel/gradient_reducer.h"
#include "parallel/parameter_buckets.h"
#include "train/gradient_step.h"
#include "train/loss_scaler.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/spikes.h"
#include "train/train_config.h"

#include <optional>
#include <vector>

namespace pimoe {

/// A model, and all that a training step reads and moves: optimizer, loss scale, balancing. Data, checkpoints and reports are its owner's: Trainer
/// in a run, ObservedModel in a proof, so that both make the same step.
///
///     const StepTerms terms = learner.begin_step(tokens);
///     const StepSums sums = learner.accumulate_gradients(batches, terms, seen);
///     const StepRecord record = learner.update(sums);
class Learner {
 public:
  /// The weights are undefined until optimizer().initialize, or until they are restored. `mesh` must outlive it. Collective.
  /// @param scaler  of float16's first step; other dtypes have none
  Learner(const TrainConfig& config, at::ScalarType dtype, const LossScaler& scaler, const ProcessMesh& mesh);

  /// @param step_tokens   of the whole step over all ranks
  /// @param step_targets  of those the ones whose cross-entropy counts; nothing: all. Of a step that has none the loss is 0
  StepTerms begin_step(int64_t step_tokens, std::optional<int64_t> step_targets = std::nullopt);
  /// See gradient_step.h. Collective.
  StepSums accumulate_gradients(const std::vector<MicroBatch>& batches, const StepTerms& terms, const PredictionObserver& seen);
  /// Clips, and updates weights and loss-free biases, unless loss or gradients are not finite or a spike to skip; then settles balancing and loss
  /// scale of the next step. Collective.
  /// @returns what the step has to say, the same on every rank, but for time, memory and tokens, which the owner knows
  StepRecord update(const StepSums& sums);

  /// What a checkpoint holds of it, as live state to be written or filled: this rank's masters and moments, and loss-free biases.
  std::vector<StatePiece> state_pieces();

  /// Sets the routers' temperature to the coming step's; begin_step does so too.
  void use_temperature();

  Transformer& model() { return model_; }
  const Transformer& model() const { return model_; }
  const std::vector<MoELayer*>& moe_layers() const { return moe_layers_; }
  const RoutingReplay* replay() const { return replay_ ? &*replay_ : nullptr; }  ///< null: routers decide for themselves
  const ParameterBuckets& buckets() const { return buckets_; }
  Optimizer& optimizer() { return optimizer_; }
  const Optimizer& optimizer() const { return optimizer_; }
  AdaptiveControl& adaptive() { return adaptive_; }
  RouterWatch& watch() { return watch_; }
  SpikeWatch& spikes() { return spikes_; }
  LossScaler& loss_scaler() { return loss_scaler_; }
  const LossScaler& loss_scaler() const { return loss_scaler_; }
  int64_t step() const { return step_; }  ///< steps done
  void set_step(int64_t step) { step_ = step; }

 private:
  /// What is to become of a step with this loss and gradient norm; says in its alarms what is unusual.
  StepOutcome judge(StepRecord& record);
  /// @param load  [N, E] of the step's global batch
  void update_biases(const at::Tensor& load);
  /// Shows adaptive control the step that was, and notes what it does about it and what a person should look at.
  void adapt(StepRecord& record);
  /// What balances the experts in the coming step: the configuration's settings, or what adaptive control has made of them.
  const AdaptiveSettings& balancing() const { return adaptive_.settings(); }

  TrainConfig config_;
  const ProcessMesh& mesh_;
  Transformer model_;
  std::vector<MoELayer*> moe_layers_;
  AdaptiveControl adaptive_;
  RouterWatch watch_;
  SpikeWatch spikes_;
  ParameterBuckets buckets_;
  Optimizer optimizer_;
  GradientReducer reducer_;
  std::optional<RoutingReplay> replay_;
  LossScaler loss_scaler_;
  int64_t step_ = 0;
};

}  // namespace pimoe
