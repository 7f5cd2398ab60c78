#include "moe/exchange_dispatcher.h"

#include "moe/exchange_rows.h"
#include "ops/row_moves.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
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

int64_t sum_of(const std::vector<int64_t>& values) { return std::accumulate(values.begin(), values.end(), int64_t{0}); }

/// The slots that travel; the rest of the order stands for nothing.
at::Tensor sent_slots(const DispatchPlan& plan) { return plan.order.slots.narrow(0, 0, sum_of(plan.route.send_rows)); }

/// The rows that travel from `tokens` [T, D], `choices` slots each.
at::Tensor rows_to_send(const at::Tensor& tokens, const DispatchPlan& plan, int64_t choices) {
  const at::Tensor slots = sent_slots(plan);
  // A rank without a token may still send padding, and has to take part in the exchange's backward.
  if (tokens.size(0) == 0) return at::zeros({slots.numel(), tokens.size(1)}, tokens.options().requires_grad(false)) + tokens.sum();
  return gather_rows(tokens, slots, plan.order.positions, choices);
}

}  // namespace

ExchangeDispatcher::ExchangeDispatcher(ExpertPlacement placement, const Communicator& group, bool by_token)
    : placement_(std::move(placement)), group_(group), by_token_(by_token) {}

SlotOrder ExchangeDispatcher::order_of(const at::Tensor& experts) const {
  return order_by_expert(placement_.places_of(experts).reshape({-1}), placement_.experts());
}

SlotOrder ExchangeDispatcher::order_here(const at::Tensor& experts) const {
  const at::Tensor local = placement_.places_of(experts) - group_.rank() * placement_.local();
  const at::Tensor here = at::where(placement_.ranks_of(experts) == group_.rank(), local, -1);
  return order_by_expert(here.to(at::kInt).reshape({-1}), placement_.local());
}

at::Tensor ExchangeDispatcher::ranks_of_tokens(const at::Tensor& ranks) const {
  const int64_t count = group_.size();
  // A column more for slots that go nowhere.
  const at::Tensor columns = at::where(ranks < 0, count, ranks.to(at::kLong));
  return at::zeros({ranks.size(0), count + 1}, ranks.options().dtype(at::kBool)).scatter_(1, columns, true).narrow(1, 0, count);
}

DispatchPlan ExchangeDispatcher::plan(const at::Tensor& experts, const PlanTerms& terms) const {
  const int64_t capacity = terms.capacity;
  DispatchPlan plan;
  plan.order = order_of(experts);
  const int64_t ranks = group_.size();
  const int64_t local = placement_.local();
  if (capacity > 0) {
    pad(plan, capacity);
    plan.route.send_rows.assign(ranks, local * capacity);
    plan.route.recv_rows = plan.route.send_rows;
    lay_out(plan, at::full({ranks, local}, capacity, at::kLong), experts.device());
    return plan;
  }
  if (ranks == 1) {
    plan.ends = plan.order.counts.cumsum(0).to(at::kInt);
    // A GPU is not asked how many slots went nowhere: their rows follow the last end, and nobody looks at them.
    plan.rows = experts.is_cpu() ? plan.order.counts.sum().item<int64_t>() : experts.numel();
    plan.route.send_rows = plan.route.recv_rows = {plan.rows};
    return plan;
  }

  if (by_token_) {
    plan_tokens(plan, experts);
    return plan;
  }

  // Counts of my slots for each (rank, its expert), and of every rank's slots for each of my experts: one copy brings both to the host.
  const std::vector<int64_t> one_each(ranks, 1);
  const at::Tensor sent = plan.order.counts.view({ranks, local});
  const at::Tensor received = group_.all_to_all(sent, one_each, one_each);
  const at::Tensor both = at::cat({sent, received}).cpu();
  const at::Tensor arrived = both.slice(0, ranks);
  plan.route.send_rows = row_sums(both.slice(0, 0, ranks));
  plan.route.recv_rows = row_sums(arrived);
  lay_out(plan, arrived, experts.device());
  return plan;
}

void ExchangeDispatcher::plan_tokens(DispatchPlan& plan, const at::Tensor& experts) const {
  const int64_t ranks = group_.size();
  const int64_t local = placement_.local();
  TokenRoute& route = plan.token_route;
  const at::Tensor to = placement_.ranks_of(experts);               // [T, K]
  const at::Tensor numbers = at::arange(ranks, experts.options());  // [P] int32
  const at::Tensor pairs = at::where(ranks_of_tokens(to), numbers.unsqueeze(0), -1);
  route.order = order_by_expert(pairs.reshape({-1}), ranks);

  // Of my tokens for each rank, and of their slots for each of its experts; received likewise. One copy brings both to the host.
  const std::vector<int64_t> one_each(ranks, 1);
  const at::Tensor sent = at::cat({route.order.counts.unsqueeze(1), plan.order.counts.view({ranks, local})}, 1);
  const at::Tensor both = at::cat({sent, group_.all_to_all(sent, one_each, one_each)}).cpu();
  const auto tokens_of = [&](int64_t first) { return row_sums(both.narrow(0, first, ranks).narrow(1, 0, 1)); };
  route.send_tokens = tokens_of(0);
  route.recv_tokens = tokens_of(ranks);
  plan.rows = both.narrow(0, ranks, ranks).narrow(1, 1, local).sum().item<int64_t>();

  const at::Tensor token = route.order.slots.narrow(0, 0, sum_of(route.send_tokens)).div(ranks, "floor");
  const at::Tensor arrived = group_.all_to_all(experts.index_select(0, token), route.send_tokens, route.recv_tokens);
  plan.by_token = order_here(arrived);
  plan.ends = plan.by_token->counts.cumsum(0).to(at::kInt);
}

ArrivedTokens ExchangeDispatcher::dispatch_tokens(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan) const {
  const TokenRoute& route = plan.token_route;
  const at::Tensor pairs = route.order.slots.narrow(0, 0, sum_of(route.send_tokens));
  const auto bring = [&](const at::Tensor& of_tokens) {
    return exchange_rows(gather_rows(of_tokens, pairs, route.order.positions, group_.size()), route.send_tokens, route.recv_tokens, group_);
  };
  return {bring(tokens), bring(weights.contiguous()), plan.rows};
}

at::Tensor ExchangeDispatcher::combine_tokens(const at::Tensor& results, const DispatchPlan& plan) const {
  const TokenRoute& route = plan.token_route;
  const at::Tensor sums = exchange_rows(results, route.recv_tokens, route.send_tokens, group_);
  const at::Tensor each_once = at::ones({route.order.positions.numel() / group_.size(), group_.size()},
                                        results.options().dtype(at_least_float32(results.scalar_type())).requires_grad(false));
  return combine_rows(sums, each_once, route.order.positions);
}

void ExchangeDispatcher::lay_out(DispatchPlan& plan, const at::Tensor& arrived, c10::Device device) const {
  plan.rows = sum_of(plan.route.recv_rows);
  // Blocks by arrival are (source, expert), by expert (expert, source): the same blocks, transposed.
  const int64_t ranks = arrived.size(0);
  const at::Tensor arrival_lengths = arrived.reshape({-1});
  const at::Tensor expert_lengths = arrived.t().reshape({-1});
  const at::Tensor arrival_begins = begins_of(arrival_lengths);
  const at::Tensor expert_begins = begins_of(expert_lengths);
  const at::Tensor shift_by_expert = arrival_begins.view_as(arrived).t().reshape({-1}) - expert_begins;
  const at::Tensor shift_by_arrival = expert_begins.view({placement_.local(), ranks}).t().reshape({-1}) - arrival_begins;
  // All tables in one copy: each would cost as much as all of them.
  const at::Tensor tables =
      at::cat({expert_lengths, shift_by_expert, arrival_lengths, shift_by_arrival, arrived.sum(0).cumsum(0)}).to(device);
  const int64_t blocks = arrival_lengths.numel();
  const auto table = [&](int64_t index) { return tables.narrow(0, index * blocks, blocks); };
  if (ranks > 1) {
    plan.route.by_expert = block_permutation(table(0), table(1), plan.rows);
    plan.route.by_arrival = block_permutation(table(2), table(3), plan.rows);
  }
  plan.ends = tables.narrow(0, 4 * blocks, placement_.local()).to(at::kInt);
}

/// Row r of an expert moves from its place among all slots to its place among its expert's `capacity` rows.
void ExchangeDispatcher::pad(DispatchPlan& plan, int64_t capacity) const {
  const int64_t experts = placement_.experts();
  const at::Tensor& counts = plan.order.counts;
  const at::Tensor shifts = at::arange(experts, counts.options()) * capacity - begins_of(counts);
  const at::Tensor places = at::arange(capacity, counts.options());
  plan.route.padding = (places.unsqueeze(0) >= counts.unsqueeze(1)).reshape({-1});
  const at::Tensor from = (places.unsqueeze(0) + begins_of(counts).unsqueeze(1)).reshape({-1});
  const int64_t last = std::max<int64_t>(0, plan.order.slots.numel() - 1);
  const at::Tensor slots = plan.order.slots.numel() == 0 ? at::zeros_like(from, plan.order.slots.options())
                                                         : plan.order.slots.index_select(0, from.clamp(0, last));
  // The expert of each slot, from its present place: the number of ends at or before it.
  const at::Tensor positions = plan.order.positions.to(at::kLong);
  const at::Tensor expert = (positions.unsqueeze(1) >= counts.cumsum(0).unsqueeze(0)).sum(1).clamp_max(experts - 1);
  plan.order.positions =
      at::where(positions >= 0, positions + shifts.index_select(0, expert), positions).to(plan.order.positions.scalar_type());
  plan.order.slots = at::where(plan.route.padding, at::zeros_like(slots), slots);
}

at::Tensor ExchangeDispatcher::send(const at::Tensor& rows, const DispatchPlan& plan) const {
  const at::Tensor real = plan.route.padding.defined() ? rows.masked_fill(plan.route.padding.unsqueeze(1), 0) : rows;
  if (group_.size() == 1) return real;
  return permute_rows(exchange_rows(real, plan.route.send_rows, plan.route.recv_rows, group_), plan.route.by_expert, plan.route.by_arrival);
}

at::Tensor ExchangeDispatcher::dispatch(const at::Tensor& tokens, const DispatchPlan& plan) const {
  return send(rows_to_send(tokens, plan, plan.order.positions.numel() / std::max<int64_t>(1, tokens.size(0))), plan);
}

at::Tensor ExchangeDispatcher::dispatch_slots(const at::Tensor& slots, const DispatchPlan& plan) const {
  return send(rows_to_send(slots.reshape({-1, 1}), plan, 1), plan);
}

at::Tensor ExchangeDispatcher::bring_back(const at::Tensor& rows, const DispatchPlan& plan) const {
  if (group_.size() == 1) return rows;
  return exchange_rows(permute_rows(rows, plan.route.by_arrival, plan.route.by_expert), plan.route.recv_rows, plan.route.send_rows, group_);
}

int64_t kept_bytes_of_plans(int64_t slots, int64_t rows, int64_t rounds, int64_t padded, int64_t group_size, bool whole) {
  constexpr int64_t kIndex = 4;
  int64_t kept = rounds * slots * kIndex + padded;               // positions; one flag for each padded row
  if (group_size > 1) kept += 2 * rows * kIndex;                 // by_expert and by_arrival: each is the other's backward
  if (whole) kept += rounds * std::max(slots, padded) * kIndex;  // slots, which no backward asks for
  return kept;
}

int64_t kept_bytes_of_token_plan(int64_t tokens, int64_t choices, int64_t arrived, int64_t group_size, int64_t wide, bool direct,
                                 bool whole) {
  constexpr int64_t kIndex = 4;
  int64_t kept = arrived * choices * kIndex;  // positions of the arrived tokens' choices
  if (direct) {
    kept += arrived * choices * kIndex;  // ranks that want them
  } else {
    kept += tokens * group_size * (kIndex + wide);  // positions of the pairs, and a weight of one for each
  }
  if (whole) kept += (2 * tokens * choices + arrived * choices + (direct ? 0 : tokens * group_size)) * kIndex;
  return kept;
}

at::Tensor ExchangeDispatcher::return_slots(const at::Tensor& values, const DispatchPlan& plan) const {
  const at::Tensor each_once = at::ones({plan.order.positions.numel(), 1}, values.options());
  return combine_rows(bring_back(values, plan), each_once, plan.order.positions);
}

at::Tensor ExchangeDispatcher::combine(const at::Tensor& rows, const at::Tensor& weights, const DispatchPlan& plan) const {
  return combine_rows(bring_back(rows, plan), weights, plan.order.positions, /*unused_rows=*/plan.route.padding.defined());
}

}  // namespace pimoe
