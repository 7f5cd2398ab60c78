#pragma once

#include "moe/exchange_dispatcher.h"
#include "parallel/direct_exchange.h"

namespace pimoe {

/// Tokens written straight into the memory of the ranks that hold their experts (parallel/direct_exchange.h), each once to each rank; what such
/// a rank's experts make of it comes back as one row. Every rank gets every rank's choices, so that places follow from them: no counts travel,
/// nor does the host wait for a number before the tokens are on their way.
///
/// Its plans are by token, and take dispatch_tokens and combine_tokens alone.
class DirectDispatcher final : public ExchangeDispatcher {
 public:
  /// @param group   the expert group, of more than one rank; it and `direct`, which is its own, must outlive the dispatcher
  DirectDispatcher(const ExpertPlacement& placement, const Communicator& group, DirectExchange& direct);

  /// @cost one collective on the expert group (choices)
  DispatchPlan plan(const at::Tensor& experts, const PlanTerms& terms) const override;
  bool has_static_rows() const override { return true; }
  ArrivedTokens dispatch_tokens(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan) const override;
  at::Tensor combine_tokens(const at::Tensor& results, const DispatchPlan& plan) const override;

 private:
  const Communicator& group_;
  DirectExchange& direct_;
};

}  // namespace pimoe
