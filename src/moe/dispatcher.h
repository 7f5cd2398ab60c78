#pragma once

#include "ops/slot_order.h"
#include "parallel/device.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace pimoe {

/// How rows cross between ranks by collectives: ExchangeDispatcher's alone.
struct ExchangeRoute {
  std::vector<int64_t> send_rows;  ///< [P] rows to each rank of the expert group
  std::vector<int64_t> recv_rows;  ///< [P] rows from each rank
  at::Tensor by_expert;   ///< [R] int32: row r of an expert-ordered batch is the by_expert[r]-th that arrived; undefined for one rank
  at::Tensor by_arrival;  ///< [R] int32: the inverse
  at::Tensor padding;     ///< [sent] bool: rows that stand for no slot; undefined where nothing is padded
};

/// How tokens travel by collectives, once to each rank that holds one of their experts: ExchangeDispatcher's alone.
struct TokenRoute {
  SlotOrder order;                   ///< of pairs t P + p, token t goes to rank p, by rank
  std::vector<int64_t> send_tokens;  ///< [P] to each rank of the expert group
  std::vector<int64_t> recv_tokens;  ///< [P] from each rank
};

/// How they are written into the ranks' memory: DirectDispatcher's alone.
struct DirectRoute {
  at::Tensor wanted;   ///< [P, M, K] int32: the ranks of each token's experts, -1 for none; of all ranks' tokens (direct_exchange.h)
  int64_t tokens = 0;  ///< T
  /// Rows here; tokens sent to other ranks, and received from them. Nothing with static rows.
  std::optional<PendingNumbers> counts;
  int64_t most_rows = 0;  ///< that there can be here, whatever the routing

  int64_t rows() const { return counts ? counts->wait()[0].item<int64_t>() : most_rows; }
  int64_t sent() const { return counts->wait()[1].item<int64_t>(); }
  int64_t received() const { return counts->wait()[2].item<int64_t>(); }
};

/// What planning learned about one batch's slots: all that dispatch, experts and combine need, and what recompute takes again.
struct DispatchPlan {
  SlotOrder order;  ///< this rank's slots by place (ExpertPlacement), and with that by rank of the expert group; padding among them
  at::Tensor ends;  ///< [L] int32 on the device: local expert l has rows [ends[l-1], ends[l])
  /// R, rows received; on one GPU, where nothing is read to the host, an upper bound of ends[L-1]; not where tokens travel.
  int64_t rows = 0;
  /// Where tokens travel, not rows: the arrived tokens' choices [U K] by local expert.
  std::optional<SlotOrder> by_token;
  ExchangeRoute route;
  TokenRoute token_route;
  DirectRoute direct;
};

/// What arrives where tokens travel.
struct ArrivedTokens {
  at::Tensor tokens;   ///< [U, D]
  at::Tensor weights;  ///< [U, K] gates; those of experts elsewhere count for nothing
  int64_t rows = 0;    ///< R, of the plan's order by_token
};

/// What a plan goes by besides the routing. The same on every rank of the group.
struct PlanTerms {
  /// Rows that every expert gets from each rank, which is also the most that any has: short ones are padded, and no counts travel. 0: no padding
  int64_t capacity = 0;
  int64_t most_tokens = 0;   ///< the largest T over the ranks, or more
  bool static_rows = false;  ///< the host is to ask the device for nothing: rows are as many as there can be. REQUIRES has_static_rows()
};

/// Moves each token's rows to the ranks that hold its experts, and the results back.
///
/// Holds no parameters and no state of a call: what planning learned travels in the plan, so that several micro-batches, and recompute, can
/// be in flight at once. dispatch and combine are differentiable; their backward makes the reverse exchange, on every rank, empty or not.
class Dispatcher {
 public:
  virtual ~Dispatcher() = default;

  /// @param experts   [T, K] int32, -1 where a slot goes nowhere; T may be 0, also on some ranks only
  /// @cost one collective on the expert group (counts) and one host synchronisation; neither where the group is one rank and the device the
  ///       CPU, nor with a capacity
  virtual DispatchPlan plan(const at::Tensor& experts, const PlanTerms& terms) const = 0;

  /// @returns whether plans can be made, and carried out, without the host's asking the device for a number
  virtual bool has_static_rows() const = 0;

  /// @param tokens  [T, D] contiguous
  /// @returns [R, D]: rows of one expert side by side, in global token order inside an expert
  /// @cost one collective on the expert group
  virtual at::Tensor dispatch(const at::Tensor& tokens, const DispatchPlan& plan) const = 0;

  /// @returns whether the plan's rows are this rank's slots in the order of plan.order.slots, so that dispatch is gather_rows and combine
  ///          combine_rows, with nothing in between
  virtual bool stays_here(const DispatchPlan& plan) const = 0;

  /// Where the plan is by_token: tokens and their gates to the experts' ranks; differentiable in both. @cost two collectives on the expert group
  virtual ArrivedTokens dispatch_tokens(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan) const = 0;

  /// @param results  [U, D]: of each token that arrived, the weighted sum over this rank's experts
  /// @returns [T, D]: each token's sum over the ranks  @cost one collective on the expert group
  virtual at::Tensor combine_tokens(const at::Tensor& results, const DispatchPlan& plan) const = 0;

  /// As dispatch, for one number of each slot: [T, K] -> [R, 1]; differentiable.
  virtual at::Tensor dispatch_slots(const at::Tensor& slots, const DispatchPlan& plan) const = 0;

  /// The way back of dispatch_slots: [R, 1] -> [T * K, 1], 0 for a slot that went nowhere. Not differentiated.
  virtual at::Tensor return_slots(const at::Tensor& values, const DispatchPlan& plan) const = 0;

  /// @param rows     [R, D] the experts' results, in dispatch's order
  /// @param weights  [T, K] gates
  /// @returns [T, D]: each token's weighted sum over its choices; a slot that went nowhere contributes nothing
  /// @cost one collective on the expert group
  virtual at::Tensor combine(const at::Tensor& rows, const at::Tensor& weights, const DispatchPlan& plan) const = 0;
};

}  // namespace pimoe
