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
/// @param lengths  [N] int64, blocks in the wanted order
/// @param shifts   [N] int64, how much further along each block stands in the given order than in the wanted one
/// @returns [rows] int32: place in the given order of each row in the wanted order
at::Tensor block_permutation(const at::Tensor& lengths, const at::Tensor& shifts, int64_t rows) {
  const at::Tensor repeated = at::repeat_interleave(shifts, lengths, std::nullopt, rows);
  return (repeated + at::arange(rows, repeated.options())).to(at::kInt);
}

/// Where each block begins when blocks of these lengths stand one after the other.
at::Tensor begins_of(const at::Tensor& lengths) { return lengths.cumsum(0) - lengths; }

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

  // Blocks by arrival are (source, expert), by expert (expert, source): the same blocks, transposed.
  const at::Tensor arrival_lengths = arrived.reshape({-1});
  const at::Tensor expert_lengths = arrived.t().reshape({-1});
  const at::Tensor arrival_begins = begins_of(arrival_lengths);
  const at::Tensor expert_begins = begins_of(expert_lengths);
  const at::Tensor shift_by_expert = arrival_begins.view_as(arrived).t().reshape({-1}) - expert_begins;
  const at::Tensor shift_by_arrival = expert_begins.view({placement_.local(), ranks}).t().reshape({-1}) - arrival_begins;
  // All tables in one copy: each would cost as much as all of them.
  const at::Tensor tables =
      at::cat({expert_lengths, shift_by_expert, arrival_lengths, shift_by_arrival, arrived.sum(0).cumsum(0)}).to(experts.device());
  const int64_t blocks = arrival_lengths.numel();
  const auto table = [&](int64_t index) { return tables.narrow(0, index * blocks, blocks); };
  plan.by_expert = block_permutation(table(0), table(1), plan.rows);
  plan.by_arrival = block_permutation(table(2), table(3), plan.rows);
  plan.ends = tables.narrow(0, 4 * blocks, placement_.local()).to(at::kInt);
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
