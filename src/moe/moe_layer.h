#pragma once

#include "moe/dispatcher.h"
#include "moe/expert_bank.h"
#include "moe/feed_forward.h"
#include "moe/router.h"
#include "moe/routing.h"
#include "moe/shared_expert.h"
#include "moe/slot_limits.h"
#include "parallel/process_mesh.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// What forward decided, kept by the caller for the time of one batch: a second forward that is given it takes the same decisions.
/// A near-tie recomputed could route otherwise; then shapes, and ranks, would disagree.
struct RoutingMemo {
  at::Tensor experts;               ///< [T, K] int32, as the router chose
  std::vector<DispatchPlan> plans;  ///< one for each round of the exchange; more than one under a rank budget alone
  at::Tensor unserved;              ///< [T] bool: tokens whose routed part others take over (fallback, shared expert); undefined: none
  at::Tensor nonfinite;             ///< [T, K] bool: slots set aside as not finite; undefined: none
};

struct MoEOutput {
  at::Tensor tokens;  ///< [T, D]
  RoutingRecord record;
};

/// A sparsely gated layer: route, limit, plan, dispatch, experts, combine; plus the shared expert where there is one.
class MoELayer {
 public:
  /// Declares name.router.*, name.experts.* (name.experts.GROUP.* with groups), name.shared.*, name.fallback.*.
  /// `mesh` must outlive the layer. @throws ConfigError if a group of experts cannot be spread over the expert group's ranks
  MoELayer(ParameterList& parameters, const std::string& name, const MoeConfig& config, int64_t width, int64_t vocabulary,
           at::ScalarType dtype, InitialDeviation deviation, const ProcessMesh& mesh, const QuantizationConfig& quantization = {});

  /// @param tokens  [T, D] contiguous, T may be 0; every rank of the expert group calls, in the same order
  /// @param memo    empty: filled with the decisions taken; filled: they are taken again, and nothing is counted or exchanged but rows
  MoEOutput forward(const at::Tensor& tokens, const BatchContext& context, std::optional<RoutingMemo>& memo) const;

  /// @returns "", or why a pass through the layer cannot be recorded (DeviceGraph): what the host decides from numbers on the device, or draws anew
  std::string recording_obstacle() const;
  /// Whether forward can do with BatchContext::static_rows.
  bool has_static_rows() const { return dispatcher_->has_static_rows(); }
  Router& router() { return router_; }
  const Router& router() const { return router_; }

 private:
  /// From the router's choice to plans: capacity, rank budget, results that are not finite.
  RoutingMemo limit(const at::Tensor& tokens, const Routing& routing, const BatchContext& context) const;
  /// @returns [T, K] bool: slots whose expert's result has a number that is not finite
  at::Tensor nonfinite_slots(const at::Tensor& tokens, const std::vector<DispatchPlan>& plans, const at::Tensor& experts) const;
  /// One plan's dispatch, experts and combine, which are run again in backward where that saves memory.
  /// @param phases     gets the round's marks
  /// @param meanwhile  called when tokens are on their way, at the first time if at all: not where all of this runs again in backward
  at::Tensor through_round(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan, bool one_of_several,
                           const std::function<void()>& meanwhile, std::vector<PhaseMarks>& phases) const;
  at::Tensor through_experts(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan,
                             const std::function<void()>& meanwhile, PhaseMarks& marks) const;
  /// @returns [U, D]: each arrived token's sum over this rank's experts
  at::Tensor compute_tokens(const ArrivedTokens& arrived, const DispatchPlan& plan) const;
  at::Tensor compute_experts(const at::Tensor& rows, const at::Tensor& row_weights, const DispatchPlan& plan) const;
  at::Tensor served_by_others(const at::Tensor& tokens, const at::Tensor& output, const RoutingMemo& memo) const;
  RoutingRecord record_of(const Routing& routing, const BatchContext& context, const RoutingMemo& memo) const;

  std::string name_;
  MoeConfig config_;
  int64_t width_;
  at::ScalarType dtype_;
  const ProcessMesh& mesh_;
  Router router_;
  ExpertPlacement placement_;
  SlotLimits limits_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::vector<ExpertBank> banks_;
  std::optional<SharedExpert> shared_;
  std::optional<FeedForward> fallback_;
};

}  // namespace pimoe
