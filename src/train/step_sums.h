#pragma once

/// From what micro-steps add up on each rank's device to the record of a step.

#include "model/transformer.h"
#include "moe/balance.h"
#include "parallel/process_mesh.h"
#include "train/metrics.h"

namespace pimoe {

struct StepTotals;

/// Where a rank's step spends its time before the update.
enum class StepPart {
  kForward,    ///< data to the device, forward passes, losses
  kBackward,   ///< with the gradient sums that overlap with it
  kGradients,  ///< gradient sums that are waited for after it
};

struct StepTime {
  StepPart part;
  TimeMark begin, end;
};

/// What one step adds up on this rank, on the device; one collective and one copy to the host at its end bring the totals to everyone.
class StepSums {
 public:
  /// @param step_tokens, step_targets  as in StepTerms  @param balance  the step's coefficients
  StepSums(const Transformer& model, const ProcessMesh& mesh, double step_tokens, double step_targets, const BalanceConfig& balance);

  /// One micro-step's forward pass. `balance` is what balance_terms made of it; absent for a dense model.
  void add(const Prediction& prediction, const std::optional<BalanceTerms>& balance);
  void note_time(StepPart part, const TimeMark& begin, const TimeMark& end) { times_.push_back({part, begin, end}); }
  void note_activation_bytes(int64_t bytes) { activation_bytes_ = std::max(activation_bytes_, bytes); }

  /// [N, E] slots of each layer's experts over the step's global batch, on the device.
  const at::Tensor& load() const { return load_; }

  /// Where this rank's time went, of each micro-step.
  const std::vector<StepTime>& times() const { return times_; }

  /// Fills in the losses, the routing and the times of `record`. Collective over the batch group. @param biases  [N] of [E], the loss-free biases
  void finish(StepRecord& record, const std::vector<at::Tensor>& biases) const;

 private:
  RoutingMetrics routing_of(const StepTotals& totals, int64_t ranks) const;

  const ProcessMesh& mesh_;
  double step_tokens_;
  double step_targets_;
  int64_t layers_;
  int64_t first_layer_;  ///< the model's
  BalanceConfig balance_;
  at::Tensor cross_entropy_;  ///< [1]
  at::Tensor load_;           ///< [N, E] int64, summed over the ranks by balance_terms
  at::Tensor parts_;          ///< [R, N] balance losses as in BalanceTerms
  at::Tensor confidence_;     ///< [N]
  at::Tensor counts_;         ///< [4, N] dropped slots, tokens without an expert, slots that were not finite, rows computed here
  std::vector<std::vector<PhaseMarks>> phases_;  ///< of each layer
  std::vector<StepTime> times_;
  int64_t activation_bytes_ = 0;
};

}  // namespace pimoe
