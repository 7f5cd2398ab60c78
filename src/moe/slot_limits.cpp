#include "moe/slot_limits.h"

#include "base/errors.h"
#include "base/text.h"
#include "moe/capacity.h"
#include "ops/slot_order.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace pimoe {

struct SlotLimits::Traffic {
  at::Tensor to;                  ///< [N] int32: the rank that each slot of this one goes to, -1 for none
  at::Tensor counts;              ///< [P, P] int64 on the device: slots of each source for each rank
  std::vector<int64_t> sent;      ///< [P] this rank's slots for each
  std::vector<int64_t> received;  ///< [P] rows that each rank would get
  int64_t slots = 0;              ///< of all sources, those that go nowhere too
};

SlotLimits::SlotLimits(std::string name, const MoeConfig& config, ExpertPlacement placement, const Communicator& group)
    : name_(std::move(name)), config_(config), placement_(std::move(placement)), group_(group) {}

int64_t SlotLimits::capacity(int64_t tokens, int64_t most_tokens) const {
  const int64_t limit = slot_limit(config_, tokens, most_tokens);
  if (limit > 0 && tokens > most_tokens) {
    throw ShapeError(concat(name_, ": ", tokens, " tokens, and BatchContext::most_tokens is ", most_tokens));
  }
  return limit;
}

at::Tensor SlotLimits::within_capacity(const at::Tensor& experts, const at::Tensor& weights, int64_t capacity) const {
  if (capacity == 0) return experts;
  const at::Tensor limits = at::full({config_.experts}, capacity, experts.options().dtype(at::kLong));
  const at::Tensor priority = config_.capacity_drop == CapacityDrop::kGate ? weights.reshape({-1}) : at::Tensor();
  return kept_slots(experts, within_limits(experts.reshape({-1}), priority, limits));
}

std::vector<at::Tensor> SlotLimits::within_budget(const at::Tensor& experts, const at::Tensor& weights) const {
  if (config_.rank_budget == 0) return {experts};
  const Traffic traffic = traffic_of(experts);
  const int64_t budget = rows_within_budget(config_, traffic.slots, group_.size());
  const int64_t fullest = *std::max_element(traffic.received.begin(), traffic.received.end());
  if (fullest <= budget) return {experts};
  if (config_.rank_overflow == RankOverflow::kDrop) return {kept_slots(experts, within_share(traffic, weights, budget))};
  const at::Tensor round_of = rounds_of_slots(traffic.to, traffic.counts, group_.rank(), budget);
  std::vector<at::Tensor> rounds;
  for (int64_t round = 0; round < rounds_of_budget(fullest, budget); ++round) rounds.push_back(kept_slots(experts, round_of == round));
  return rounds;
}

SlotLimits::Traffic SlotLimits::traffic_of(const at::Tensor& experts) const {
  const int64_t ranks = group_.size();
  Traffic traffic;
  traffic.to = placement_.ranks_of(experts).reshape({-1});
  const at::Tensor mine = order_by_expert(traffic.to, ranks).counts;
  // Each source's slots travel in the last column: one collective, and one copy to the host.
  at::Tensor all = at::empty({ranks * (ranks + 1)}, mine.options());
  group_.all_gather(all, at::cat({mine, at::tensor({experts.numel()}, mine.options())}));
  all = all.view({ranks, ranks + 1});
  traffic.counts = all.narrow(1, 0, ranks);
  const at::Tensor host = all.cpu();
  const at::Tensor sums = host.sum(0);
  const int64_t* received = sums.const_data_ptr<int64_t>();
  traffic.received.assign(received, received + ranks);
  traffic.slots = received[ranks];
  const int64_t* sent = host.const_data_ptr<int64_t>() + group_.rank() * (ranks + 1);
  traffic.sent.assign(sent, sent + ranks);
  return traffic;
}

at::Tensor SlotLimits::within_share(const Traffic& traffic, const at::Tensor& weights, int64_t budget) const {
  std::vector<int64_t> limits = traffic.sent;
  for (size_t rank = 0; rank < limits.size(); ++rank) {
    if (traffic.received[rank] > budget) limits[rank] = limits[rank] * budget / traffic.received[rank];
  }
  return within_limits(traffic.to, weights.reshape({-1}), at::tensor(limits, traffic.counts.options()));
}

at::Tensor kept_slots(const at::Tensor& experts, const at::Tensor& stays) {
  return at::where(stays.view_as(experts), experts, at::full_like(experts, -1));
}

at::Tensor rounds_of_slots(const at::Tensor& to, const at::Tensor& counts, int64_t source, int64_t budget) {
  const int64_t ranks = counts.size(0);
  const at::Tensor destination = to.clamp_min(0).to(at::kLong);
  const at::Tensor odd = places_in_bins(to, ranks) * 2 + 1;
  const at::Tensor own = counts.select(0, source).index_select(0, destination).clamp_min(1);
  at::Tensor before = at::zeros_like(odd);
  for (int64_t other = 0; other < ranks; ++other) {
    const at::Tensor theirs = counts.select(0, other).index_select(0, destination);
    // How many q have (2q + 1) / theirs below odd / own; or, for lower sources and this one's slots before it, not above.
    const int64_t strictly = other < source ? 0 : 1;
    before = before + ((odd * theirs - strictly).div(own, "floor") + 1).div(2, "floor").clamp_min(0);
  }
  const at::Tensor rounds = before.div(budget, "floor");
  return at::where(to >= 0, rounds, at::full_like(rounds, -1));
}

}  // namespace pimoe
