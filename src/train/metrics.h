#pragma once

/// What one step has to say, and how: a record of numbers, as a JSON line of metrics.jsonl, as scalars for curves, as the log's line for a person.

#include "moe/balance_config.h"
#include "train/scalars.h"
#include "train/step_outcome.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// One rule's balance loss over a step.
struct RuleLoss {
  BalanceRule rule = BalanceRule::kSwitch;
  std::vector<double> unscaled;  ///< [N] 1 at balance, but for the z-loss
  std::vector<double> scaled;    ///< [N] times the coefficient: what is added to the loss
};

/// How evenly each MoE layer's slots fell on its experts over a step's global batch (formulas and keys: docs/metrics.md).
struct RoutingMetrics {
  std::vector<int64_t> layers;             ///< [N] the model's layers that these are
  std::vector<std::vector<int64_t>> load;  ///< [N][E] slots of each expert
  std::vector<double> maxvio;              ///< [N] (max c - mean c) / mean c
  std::vector<double> maxvio_rank;         ///< [N] the same over the rows that each rank computed
  std::vector<double> entropy;             ///< [N] H(c) / ln E; 1 at balance
  std::vector<double> utilization;         ///< [N] share of experts with at least one slot
  std::vector<double> dead_experts;        ///< [N] experts without a slot in the step
  std::vector<RuleLoss> losses;            ///< of the rules that were computed: the Switch and the z-loss always
  std::vector<double> scaled_loss;         ///< [N] all balance losses of a layer with their coefficients
  std::vector<double> dropped_fraction;    ///< [N] dropped slots over all slots
  std::vector<double> fallback_tokens;     ///< [N] tokens that no expert served
  std::vector<double> nonfinite_slots;     ///< [N] slots set aside because their expert's result was not finite
  std::vector<double> dispatch_ms;         ///< [N] device time of rank 0's forward passes in the step, likewise the next two
  std::vector<double> experts_ms;
  std::vector<double> combine_ms;
  std::vector<double> gate_confidence;  ///< [N] mean of a token's largest gate
  std::vector<double> bias_min;         ///< [N] loss-free bias
  std::vector<double> bias_max;

  /// @returns the loss of a rule that was computed
  const RuleLoss& loss(BalanceRule rule) const;
};

/// Fills layers, load, maxvio, entropy, utilization and dead_experts.
/// @param load  [N, E] int64 on the host  @param first_layer  the model's layer that is the first of them
RoutingMetrics routing_metrics(const at::Tensor& load, int64_t first_layer);

/// What adaptive control did in a step.
struct AdaptiveRecord {
  std::vector<double> bias_rate;   ///< [N] that the step used
  double switch_loss = 0.0;        ///< likewise
  double temperature = 1.0;        ///< likewise
  std::vector<std::string> moves;  ///< made after it, each with its reason
};

/// What one step has to say.
struct StepRecord {
  int64_t step = 0;   ///< steps done, this one included
  double loss = 0.0;  ///< mean cross-entropy of a token
  std::optional<double> validation_loss;
  double gradient_norm = 0.0;
  double learning_rate = 0.0;
  double loss_scale = 1.0;
  StepOutcome outcome = StepOutcome::kTaken;
  int64_t tokens = 0;                     ///< seen by the run so far
  int64_t step_tokens = 0;                ///< of those, seen by this step
  std::optional<int64_t> learned_tokens;  ///< of those, whose prediction counted; absent where all did
  std::vector<double> epochs;             ///< of each corpus of a blend, read so far; empty for one corpus
  double step_seconds = 0.0;
  double forward_ms = 0.0;    ///< device time of rank 0 in the step: data to the device, forward passes, losses
  double backward_ms = 0.0;   ///< with the gradient sums that overlap with it
  double gradients_ms = 0.0;  ///< gradient sums that are waited for after it
  double tokens_per_second = 0.0;
  std::optional<double> mfu;             ///< Megatron's convention
  std::optional<double> mfu_torchtitan;  ///< torchtitan's
  int64_t memory_bytes = 0;              ///< peak of rank 0
  /// Most that rank 0 kept for backward of a micro-batch; nothing where another thread took and freed host memory meanwhile (a save beside training).
  std::optional<int64_t> activation_bytes;
  std::optional<RoutingMetrics> routing;   ///< absent in dense models
  std::optional<AdaptiveRecord> adaptive;  ///< absent where it is off
  std::vector<std::string> alarms;         ///< routers that collapse, experts without a slot, results that are not finite
};

/// @returns the record as one JSON line without its end
std::string to_json(const StepRecord& record);

/// @returns the numbers of that line that are no list, under its keys, for a curve each; a flag is 0 or 1, what is unknown is left out
Scalars to_scalars(const StepRecord& record);

/// @returns the names of all numbers that to_scalars can give, of any model
std::vector<std::string> metric_names();

/// @returns the record as a line for people. @param seconds_left of the run, if known
std::string to_line(const StepRecord& record, int64_t steps, double seconds_left);

}  // namespace pimoe
