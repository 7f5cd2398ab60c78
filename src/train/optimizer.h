#pragma once

#include "checkpoint/snapshot.h"
#include "parallel/parameter_buckets.h"
#include "train/optimizer_config.h"

#include <cstdint>
#include <vector>

namespace pimoe {

/// AdamW over the slices that this rank owns (ZeRO-1): master weights and moments are at least float32; compute weights are their cast.
/// Where the compute dtype is the master's, the master *is* the rank's slice of the compute weights.
/// @source decoupled decay: arXiv 1711.05101, algorithm 2. Sharded state: arXiv 1910.02054, stage 1.
class Optimizer {
 public:
  Optimizer(ParameterBuckets& buckets, const OptimizerConfig& config, const ProcessMesh& mesh);

  /// Draws every master weight from its counter and publishes.
  void initialize(uint64_t seed);

  /// The global norm of the summed gradients divided by `loss_scale`: a dense weight counts once and every expert once. The same number on
  /// every rank; not finite if any gradient is not. @cost one collective of one number, one host synchronisation.
  double gradient_norm(double loss_scale) const;

  /// One AdamW step on gradients / loss_scale, clipped to config.clip_norm given their norm, then publishes.
  /// REQUIRES gradient_norm finite. Collective. @param learning_rate  of this step  @param gradient_norm, loss_scale  as gradient_norm() has them
  /// @throws CommError if a rank left
  /// @cost one fused pass over gradients, masters and moments of this rank's slices, in place; then publish()
  void step(double learning_rate, double gradient_norm, double loss_scale);

  /// Whether every weight of every rank is finite as the compute weights hold it: a master may be a float32 that float16 has no room for.
  /// The same answer on every rank. @cost reads the weights once, one collective of one number.
  bool weights_are_finite() const;

  /// @param bucket  index into the buckets
  /// @returns whether the master is memory of its own, not the rank's slice of the compute weights
  bool keeps_master_apart(size_t bucket) const;
  /// @returns whether this rank's slice of the compute weights is, bit for bit, the cast of its master. @cost a copy of the slice
  bool weights_follow_master(size_t bucket) const;

  /// Casts the masters into the compute weights and gathers everyone's: after `initialize`, `step` and a restore. Collective.
  /// @cost each weight travels once; no host synchronisation
  void publish();

  /// Steps taken (skipped ones not counted); restored by the trainer.
  int64_t steps_taken() const { return steps_taken_; }
  void set_steps_taken(int64_t steps);

  /// Views of this rank's masters and moments, piece by piece, of the kinds of checkpoint/training_state.h.
  std::vector<StatePiece> state() const;
  /// @returns what this rank holds of masters and moments; a master that is the rank's slice of the compute weights takes nothing more
  int64_t state_bytes() const;

 private:
  struct Slice {
    Bucket* bucket;
    at::Tensor master;
    at::Tensor exp_avg;
    at::Tensor exp_avg_sq;
    at::Tensor step;  ///< scalar float32, as at::_fused_adamw_ wants it
  };

  OptimizerConfig config_;
  ParameterBuckets& buckets_;
  const ProcessMesh& mesh_;
  std::vector<Slice> slices_;
  int64_t steps_taken_ = 0;
};

}  // namespace pimoe
