#pragma once

#include "checkpoint/snapshot.h"
#include "ops/adamw.h"
#include "parallel/parameter_buckets.h"
#include "train/optimizer_config.h"

#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// AdamW over the slices that this rank owns (ZeRO-1): master weights and moments are at least float32; compute weights are their cast.
/// Where the compute dtype is the master's, the master *is* the rank's slice of the compute weights.
///
/// Masters and moments have no copy on another rank. Each step sums their bits as it reads and as it writes them (ops/adamw.h), so that the next
/// one finds what changed by itself in between: `found_change`. Whoever sets them otherwise publishes.
/// @source decoupled decay: arXiv 1711.05101, algorithm 2. Sharded state: arXiv 1910.02054, stage 1.
class Optimizer {
 public:
  Optimizer(ParameterBuckets& buckets, const OptimizerConfig& config, const ProcessMesh& mesh);

  /// Draws every master weight from its counter and publishes.
  void initialize(uint64_t seed);

  /// The global norm of the summed gradients divided by `loss_scale`: a dense weight counts once and every expert once. The same number on
  /// every rank; not finite if any gradient is not. @cost one collective of one number, one host synchronisation.
  double gradient_norm(double loss_scale) const;

  /// What clipping to config.clip_norm multiplies gradients of this norm by.
  double clip_factor(double gradient_norm) const;

  /// One AdamW step on gradients / loss_scale, clipped given their norm, and everyone's weights. The gradients stay as they are.
  /// REQUIRES gradient_norm finite. Collective. @param learning_rate  of this step  @param gradient_norm, loss_scale  as gradient_norm() has them
  /// @throws CommError if a rank left
  /// @cost one pass over gradients, masters and moments of this rank's slices, in place; each weight travels once; no host synchronisation
  void step(double learning_rate, double gradient_norm, double loss_scale);

  /// Whether every weight of every rank is finite as the compute weights hold it: a master may be a float32 that float16 has no room for.
  /// The same answer on every rank. @cost reads the weights once, one collective of one number.
  bool weights_are_finite() const;

  /// @param bucket  index into the buckets
  /// @returns whether the master is memory of its own, not the rank's slice of the compute weights
  bool keeps_master_apart(size_t bucket) const;
  /// @returns whether this rank's slice of the compute weights is, bit for bit, the cast of its master. @cost a copy of the slice
  bool weights_follow_master(size_t bucket) const;

  /// Casts the masters into the compute weights, gathers everyone's, and takes masters and moments for right as they are: after `initialize` and a
  /// restore. Collective. @cost each weight travels once; reads masters and moments; no host synchronisation
  void publish();

  /// Looks whether masters and moments are what the last step, or publish(), left. @cost reads them once; no host synchronisation
  void compare_state();
  /// @returns whether a step or compare_state() found that a master or a moment of this rank had changed by itself since the one before, and
  /// publish() has not been since. REQUIRES the device to be synchronised. @cost none
  bool found_change() const { return *found_on_host_.const_data_ptr<int64_t>() != 0; }
  /// @returns what they found, as in "exp_avg of layers.0.attention.qkv.weight". @cost small copies to the host
  std::vector<std::string> changed_state() const;

  /// Steps taken (skipped ones not counted); restored by the trainer.
  int64_t steps_taken() const { return steps_taken_; }
  void set_steps_taken(int64_t steps) { steps_taken_ = steps; }

  /// Views of this rank's masters and moments, piece by piece, of the kinds of checkpoint/training_state.h.
  std::vector<StatePiece> state() const;
  /// @returns what this rank holds of masters, moments and their sums; a master that is the rank's slice of the compute weights takes nothing more
  int64_t state_bytes() const;

 private:
  struct Slice {
    Bucket* bucket;
    AdamwState state;
    AdamwSums sums;
  };

  /// Brings the count of what was found on its way to the host.
  void fetch_found();

  OptimizerConfig config_;
  ParameterBuckets& buckets_;
  const ProcessMesh& mesh_;
  std::vector<Slice> slices_;
  at::Tensor found_;          ///< [1] int64 on the device, of all slices
  at::Tensor found_on_host_;  ///< its copy; on the CPU itself
  int64_t steps_taken_ = 0;
};

}  // namespace pimoe
