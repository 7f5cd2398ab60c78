#include "moe/dispatcher.h"
#include "moe/exchange_rows.h"
#include "ops/row_moves.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/repeat_interleave.h>

#include <numeric>

namespace pimoe {
namespace {

/// Rows arrive as blocks in one order and are wanted as the same blocks in another.
/// @param lengths  [N] int64 on the host, blocks in the wanted order
/// @param begins   [N] int64 on the host, where each block begins in the given order
/// @returns [sum of lengths] int32 on `device`: place in the given order of each row in the wanted order
at::Tensor block_permutation(const at::Tensor& lengths, const at::Tensor& begins, int64_t rows, c10::Device device) {
  const at::Tensor wanted_begins = lengths.cumsum(0) - lengths;
  const at::Tensor shift = (begins - wanted_begins).to(device, at::kLong);
  const at::Tensor repeated = at::repeat_interleave(shift, lengths.to(device), std::nullopt, rows);
  return (repeated + at::arange(rows, repeated.options())).to(at::kInt);
}

std::vector<int64_t> row_sums(const at::Tensor& matrix) {
  const at::Tensor sums = matrix.sum(1).contiguous();
  return {sums.const_data_ptr<int64_t>(), sums.const_data_ptr<int64_t>() + sums.numel()};
}

}  // namespace

ExchangeDispatcher::ExchangeDispatcher(const ExpertPlacement& placement, int64_t choices, const Communicator& group)
    : placement_(placement), choices_(choices), group_(group) {}

DispatchPlan ExchangeDispatcher::plan(const at::Tensor& experts) const {
  DispatchPlan plan;
  plan.order = order_by_expert(experts.reshape({-1}), placement_.experts());
  const int64_t ranks = group_.size();
  if (ranks == 1) {
    plan.rows = experts.numel();
    plan.send_rows = plan.recv_rows = {plan.rows};
    plan.ends = plan.order.counts.cumsum(0).to(at::kInt);
    return plan;
  }

  // Counts of my slots for each (rank, its expert), and of every rank's slots for each of my experts: one copy brings both to the host.
  const std::vector<int64_t> one_each(ranks, 1);
  const at::Tensor sent = plan.order.counts.view({ranks, placement_.local()});
  const at::Tensor received = group_.all_to_all(sent, one_each, one_each);
  const at::Tensor both = at::cat({sent, received}).cpu();
  const at::Tensor arrived = both.slice(0, ranks);  // [P, L]: blocks in order of arrival
  plan.send_rows = row_sums(both.slice(0, 0, ranks));
  plan.recv_rows = row_sums(arrived);
  plan.rows = std::accumulate(plan.recv_rows.begin(), plan.recv_rows.end(), int64_t{0});

  const c10::Device device = experts.device();
  const at::Tensor arrival_lengths = arrived.reshape({-1});
  const at::Tensor arrival_begins = (arrival_lengths.cumsum(0) - arrival_lengths).view_as(arrived);
  const at::Tensor expert_lengths = arrived.t().reshape({-1});
  const at::Tensor expert_begins = (expert_lengths.cumsum(0) - expert_lengths).view({placement_.local(), ranks});
  plan.by_expert = block_permutation(expert_lengths, arrival_begins.t().reshape({-1}), plan.rows, device);
  plan.by_arrival = block_permutation(arrival_lengths, expert_begins.t().reshape({-1}), plan.rows, device);
  plan.ends = arrived.sum(0).cumsum(0).to(device, at::kInt);
  return plan;
}

at::Tensor ExchangeDispatcher::dispatch(const at::Tensor& tokens, const DispatchPlan& plan) const {
  const at::Tensor rows = gather_rows(tokens, plan.order.slots, plan.order.positions, choices_);
  if (group_.size() == 1) return rows;
  return permute_rows(exchange_rows(rows, plan.send_rows, plan.recv_rows, group_), plan.by_expert, plan.by_arrival);
}

at::Tensor ExchangeDispatcher::combine(const at::Tensor& rows, const at::Tensor& weights, const DispatchPlan& plan) const {
  const at::Tensor returned =
      group_.size() == 1 ? rows
                         : exchange_rows(permute_rows(rows, plan.by_arrival, plan.by_expert), plan.recv_rows, plan.send_rows, group_);
  return combine_rows(returned, weights, plan.order.slots, plan.order.positions);
}

}  // namespace pimoe
