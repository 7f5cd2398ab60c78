#include "moe/capacity.h"

#include "ops/slot_order.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

namespace pimoe {

at::Tensor places_in_bins(const at::Tensor& bins, int64_t bin_count) {
  const SlotOrder order = order_by_expert(bins, bin_count);
  const at::Tensor begins = order.counts.cumsum(0) - order.counts;
  const at::Tensor places = order.positions.to(at::kLong) - begins.index_select(0, bins.clamp_min(0).to(at::kLong));
  return at::where(bins >= 0, places, at::full_like(places, -1));
}

int64_t rounded_up(double product) {
  constexpr double kRounding = 1e-12;  // some thousand times that of a float64
  return static_cast<int64_t>(std::ceil(product * (1.0 - kRounding)));
}

int64_t expert_capacity(const MoeConfig& config, int64_t tokens) {
  const double even = static_cast<double>(tokens * config.choices) / static_cast<double>(config.experts);
  return std::max<int64_t>(1, std::min(tokens, rounded_up(even * config.capacity_factor)));
}

int64_t slot_limit(const MoeConfig& config, int64_t tokens, int64_t most_tokens) {
  if (config.capacity_factor == 0 || config.router_traits().by_expert) return 0;
  return expert_capacity(config, config.capacity_pad ? most_tokens : tokens);
}

int64_t tokens_of_choosing_expert(const MoeConfig& config, int64_t sequence_length) {
  return std::min(sequence_length, (config.choices * sequence_length + config.experts - 1) / config.experts);
}

int64_t rounds_of_budget(int64_t rows, int64_t budget) { return (rows + budget - 1) / budget; }

int64_t rows_within_budget(const MoeConfig& config, int64_t slots, int64_t ranks) {
  const double even = static_cast<double>(slots) / static_cast<double>(ranks);
  return std::max<int64_t>(1, rounded_up(even * config.rank_budget));
}

at::Tensor within_limits(const at::Tensor& bins, const at::Tensor& priority, const at::Tensor& limits) {
  if (bins.numel() == 0) return at::zeros_like(bins, bins.options().dtype(at::kBool));
  const at::Tensor order =
      priority.defined() ? at::argsort(priority.detach(), /*stable=*/true, /*dim=*/-1, /*descending=*/true) : at::Tensor();
  const at::Tensor sorted = order.defined() ? bins.index_select(0, order) : bins;
  const at::Tensor limit = limits.index_select(0, sorted.clamp_min(0).to(at::kLong));
  const at::Tensor stays = (sorted >= 0).logical_and(places_in_bins(sorted, limits.numel()) < limit);
  if (!order.defined()) return stays;
  return at::zeros_like(stays).index_copy_(0, order, stays);
}

}  // namespace pimoe
