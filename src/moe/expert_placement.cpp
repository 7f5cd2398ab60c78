#include "moe/expert_placement.h"

#include "base/errors.h"
#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

namespace pimoe {

ExpertPlacement::ExpertPlacement(const std::vector<ExpertGroupConfig>& groups, int group_size, int group_rank, c10::Device device) {
  for (const ExpertGroupConfig& group : groups) {
    if (const std::string trouble = spread_trouble(group.count, group_size); !trouble.empty()) {
      throw ConfigError(concat(group.name.empty() ? "model.moe.experts " : concat("model.moe.groups, ", group.name, ": count "), trouble));
    }
    const int64_t share = group.count / group_size;
    banks_.push_back({experts_, group.count, share, share * group_rank, local_});
    experts_ += group.count;
    local_ += share;
  }
  if (banks_.size() < 2) return;
  places_.resize(static_cast<size_t>(experts_));
  for (const Bank& bank : banks_) {
    for (int64_t expert = 0; expert < bank.experts; ++expert) {
      places_[static_cast<size_t>(bank.first + expert)] = expert / bank.local * local_ + bank.begin + expert % bank.local;
    }
  }
  place_of_ = at::tensor(places_, at::kInt).to(device);
}

at::Tensor ExpertPlacement::places_of(const at::Tensor& experts) const {
  if (!place_of_.defined()) return experts;
  const at::Tensor places = place_of_.index_select(0, experts.reshape({-1}).clamp_min(0).to(at::kLong)).view_as(experts);
  return at::where(experts >= 0, places, at::full_like(places, -1));
}

at::Tensor ExpertPlacement::ranks_of(const at::Tensor& experts) const {
  const at::Tensor places = places_of(experts);
  return at::where(places >= 0, places.div(local_, "trunc"), places).to(at::kInt);
}

}  // namespace pimoe
