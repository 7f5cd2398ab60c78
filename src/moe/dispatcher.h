#pragma once

#include "moe/expert_placement.h"
#include "ops/slot_order.h"
#include "parallel/communicator.h"

#include <ATen/core/Tensor.h>

#include <vector>

namespace pimoe {

/// What planning learned about one batch's slots: all that dispatch, experts and combine need, and what recompute takes again.
struct DispatchPlan {
  SlotOrder order;                 ///< this rank's slots by expert, and with that by rank of the expert group
  std::vector<int64_t> send_rows;  ///< [P] rows to each rank of the expert group
  std::vector<int64_t> recv_rows;  ///< [P] rows from each rank
  at::Tensor by_expert;   ///< [R] int32: row r of an expert-ordered batch is the by_expert[r]-th that arrived; undefined for one rank
  at::Tensor by_arrival;  ///< [R] int32: the inverse
  at::Tensor ends;        ///< [L] int32 on the device: local expert l has rows [ends[l-1], ends[l])
  int64_t rows = 0;       ///< R, rows received
};

/// Moves each token's rows to the ranks that hold its experts, and the results back.
///
/// Holds no parameters and no state of a call: what planning learned travels in the plan, so that several micro-batches, and recompute, can
/// be in flight at once. dispatch and combine are differentiable; their backward makes the reverse exchange, on every rank, empty or not.
class Dispatcher {
 public:
  virtual ~Dispatcher() = default;

  /// @param experts  [T, K] int32; T may be 0, also on some ranks only
  /// @cost one collective on the expert group (counts) and one host synchronisation; neither where the group is one rank and the device the CPU
  virtual DispatchPlan plan(const at::Tensor& experts) const = 0;

  /// @param tokens  [T, D] contiguous
  /// @returns [R, D]: rows of one expert side by side, in global token order inside an expert
  /// @cost one collective on the expert group
  virtual at::Tensor dispatch(const at::Tensor& tokens, const DispatchPlan& plan) const = 0;

  /// @param rows     [R, D] the experts' results, in dispatch's order
  /// @param weights  [T, K] gates
  /// @returns [T, D]: each token's weighted sum over its choices
  /// @cost one collective on the expert group
  virtual at::Tensor combine(const at::Tensor& rows, const at::Tensor& weights, const DispatchPlan& plan) const = 0;
};

/// Dispatch by collectives: counts, then a variable-size all-to-all of rows. Runs everywhere.
/// @source token order as in Megatron-Core's all-to-all dispatcher: source rank, then token, inside each expert.
class ExchangeDispatcher : public Dispatcher {
 public:
  /// @param group  the expert group; must outlive the dispatcher
  ExchangeDispatcher(const ExpertPlacement& placement, int64_t choices, const Communicator& group);

  DispatchPlan plan(const at::Tensor& experts) const override;
  at::Tensor dispatch(const at::Tensor& tokens, const DispatchPlan& plan) const override;
  at::Tensor combine(const at::Tensor& rows, const at::Tensor& weights, const DispatchPlan& plan) const override;

 private:
  ExpertPlacement placement_;
  int64_t choices_;
  const Communicator& group_;
};

}  // namespace pimoe
