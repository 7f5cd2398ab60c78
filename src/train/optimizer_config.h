#pragma once

#include "base/config_fields.h"

namespace pimoe {

enum class Schedule { kConstant, kCosine, kLinear, kWarmupStableDecay };

/// `optimizer:` AdamW with decoupled decay.
struct OptimizerConfig {
  double learning_rate = 1e-3;
  int64_t warmup_steps = 20;
  Schedule schedule = Schedule::kCosine;
  double final_ratio = 0.1;   ///< learning rate of the last step / peak
  double decay_share = 0.2;   ///< of the steps, for warm-up-stable-decay
  double weight_decay = 0.1;  ///< not on norms
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double clip_norm = 1.0;  ///< 0: no clipping

  void fields(FieldVisitor& visit);
};

/// @param step  steps done before this one, from 0  @returns the learning rate of this step
/// Warm-up is linear from learning_rate / warmup_steps; then constant, half a cosine, a line, or constant and a line over the last decay_share.
double learning_rate_at(int64_t step, int64_t steps, const OptimizerConfig& config);

}  // namespace pimoe
