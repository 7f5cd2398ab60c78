#pragma once

#include "moe/dispatcher.h"
#include "moe/expert_bank.h"
#include "moe/feed_forward.h"
#include "moe/router.h"
#include "parallel/process_mesh.h"

#include <optional>
#include <string>

namespace pimoe {

/// One layer's routing of one batch on this rank, for losses and metrics (see balance.h). The sums carry gradients.
struct RoutingRecord {
  at::Tensor load;             ///< [E] int64, slots of each expert
  at::Tensor probability_sum;  ///< [E] differentiable
  at::Tensor z_sum;            ///< scalar, differentiable
  at::Tensor confidence_sum;   ///< scalar
};

/// What forward decided, kept by the caller for the time of one batch: a second forward that is given it takes the same decisions.
/// A near-tie recomputed could route otherwise; then shapes, and ranks, would disagree.
struct RoutingMemo {
  at::Tensor experts;  ///< [T, K] int32
  DispatchPlan plan;
};

struct MoEOutput {
  at::Tensor tokens;  ///< [T, D]
  RoutingRecord record;
};

/// A sparsely gated layer: route, plan, dispatch, experts, combine; plus the shared expert where there is one.
class MoELayer {
 public:
  /// Declares name.router.weight, name.experts.*, name.shared.*. `mesh` must outlive the layer.
  MoELayer(ParameterList& parameters, const std::string& name, const MoeConfig& config, int64_t width, at::ScalarType dtype,
           InitialDeviation deviation, const ProcessMesh& mesh);

  /// @param tokens  [T, D] contiguous, T may be 0; every rank of the expert group calls, in the same order
  /// @param memo    empty: filled with the decisions taken; filled: they are taken again, and nothing is counted or exchanged but rows
  MoEOutput forward(const at::Tensor& tokens, std::optional<RoutingMemo>& memo) const;

  Router& router() { return router_; }
  const Router& router() const { return router_; }

 private:
  Router router_;
  ExchangeDispatcher dispatcher_;
  ExpertBank experts_;
  std::optional<FeedForward> shared_;
};

}  // namespace pimoe
