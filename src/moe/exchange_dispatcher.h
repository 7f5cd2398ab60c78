#pragma once

#include "moe/dispatcher.h"
#include "moe/expert_placement.h"
#include "parallel/communicator.h"

namespace pimoe {

/// Dispatch by collectives: counts, then a variable-size all-to-all of rows. Runs everywhere.
/// @source token order as in Megatron-Core's all-to-all dispatcher: source rank, then token, inside each expert.
class ExchangeDispatcher : public Dispatcher {
 public:
  /// @param group     the expert group; must outlive the dispatcher
  /// @param by_token  plans without a capacity send tokens where the group has several ranks
  ExchangeDispatcher(ExpertPlacement placement, const Communicator& group, bool by_token);

  DispatchPlan plan(const at::Tensor& experts, const PlanTerms& terms) const override;
  bool has_static_rows() const override { return group_.size() == 1; }
  at::Tensor dispatch(const at::Tensor& tokens, const DispatchPlan& plan) const override;
  bool stays_here(const DispatchPlan& plan) const override { return group_.size() == 1 && !plan.route.padding.defined(); }
  ArrivedTokens dispatch_tokens(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan) const override;
  at::Tensor combine_tokens(const at::Tensor& results, const DispatchPlan& plan) const override;
  at::Tensor dispatch_slots(const at::Tensor& slots, const DispatchPlan& plan) const override;
  at::Tensor return_slots(const at::Tensor& values, const DispatchPlan& plan) const override;
  at::Tensor combine(const at::Tensor& rows, const at::Tensor& weights, const DispatchPlan& plan) const override;

 protected:
  const ExpertPlacement& placement() const { return placement_; }
  /// Of all slots, by place.
  SlotOrder order_of(const at::Tensor& experts) const;
  /// Of slots whose expert is on this rank, by local expert. @param experts  [N, K], of whichever tokens
  SlotOrder order_here(const at::Tensor& experts) const;
  /// @param ranks  [N, K] int32 @returns [N, P] bool: which ranks stand there
  at::Tensor ranks_of_tokens(const at::Tensor& ranks) const;

 private:
  /// Rows in order of sending to rows of experts, and back.
  at::Tensor send(const at::Tensor& rows, const DispatchPlan& plan) const;
  at::Tensor bring_back(const at::Tensor& rows, const DispatchPlan& plan) const;
  /// Fills in what follows from the blocks of arrived rows. @param arrived  [P, L] int64 on the host
  void lay_out(DispatchPlan& plan, const at::Tensor& arrived, c10::Device device) const;
  void pad(DispatchPlan& plan, int64_t capacity) const;
  /// @param experts  [T, K]
  void plan_tokens(DispatchPlan& plan, const at::Tensor& experts) const;

  ExpertPlacement placement_;
  const Communicator& group_;
  bool by_token_;
};

/// Bytes of plans that are kept.
/// @param slots  of this rank's tokens   @param rows  received in all rounds   @param padded  rows sent with padding; 0: none
/// @param whole  the plans themselves are kept, to dispatch again; else what the backward of one plan's dispatch and combine needs
int64_t kept_bytes_of_plans(int64_t slots, int64_t rows, int64_t rounds, int64_t padded, int64_t group_size, bool whole);

/// The same of one plan by token, but for what the experts keep of it.
/// @param tokens, choices  T, K  @param arrived  U  @param wide  bytes of a weight  @param direct  DirectDispatcher's, where U counts places
int64_t kept_bytes_of_token_plan(int64_t tokens, int64_t choices, int64_t arrived, int64_t group_size, int64_t wide, bool direct,
                                 bool whole);

}  // namespace pimoe
