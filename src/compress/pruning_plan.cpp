#include "compress/pruning_plan.h"

#include "base/errors.h"
#include "base/number_text.h"
#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pimoe {
namespace {

constexpr int64_t kLargestMultiple = 64;

/// @param what  "model.moe.experts (8)"  @param count  of that, or of each group of it
int64_t kept_or_throw(const std::string& what, int64_t count, const PruneChoice& choice, int64_t multiple) {
  const int64_t kept = kept_count(count, choice.ratio, multiple);
  if (kept > 0) return kept;
  throw ConfigError(concat(what, ": none can go, because what stays of ", count, " has to be ",
                           multiple == 1 ? "at least 1" : concat("a multiple of ", multiple)));
}

void make_experts_fewer(TrainConfig& config, const PruneChoice& choice) {
  MoeConfig& moe = config.model.moe;
  if (!moe.router_traits().has_scores) {
    throw ConfigError(concat("model.moe.router.kind (", moe.router_kind(),
                             "): its experts are known by their number, and with fewer of them every token would be sent elsewhere; --kind "
                             "channels is possible"));
  }
  const int64_t multiple = choice.multiple > 0 ? choice.multiple : std::max<int64_t>(1, config.mesh.expert_parallel);
  const int64_t before = moe.experts;
  if (moe.groups.empty()) {
    // A multiple of the whole is one of each of the router's groups where these have their part of it.
    const int64_t groups = moe.router.groups;
    moe.experts = groups * kept_or_throw(groups == 1 ? concat("model.moe.experts (", before, ")")
                                                     : concat("model.moe.experts (", before, ") in ", groups, " groups of the router"),
                                         before / groups, choice, multiple / std::gcd(multiple, groups));
  } else {
    if (moe.router.groups > 1) {
      throw ConfigError(concat("model.moe.router.groups (", moe.router.groups,
                               ") and model.moe.groups together: what stays cannot be even in both; --kind channels is possible"));
    }
    moe.experts = 0;
    for (ExpertGroupConfig& group : moe.groups) {
      group.count = kept_or_throw(concat("the experts of group ", group.name, " (", group.count, ")"), group.count, choice, multiple);
      moe.experts += group.count;
    }
  }
  if (moe.experts < moe.choices) {
    throw ConfigError(concat("--ratio ", shortest(choice.ratio), " leaves ", moe.experts, " of ", counted(before, "expert"),
                             ", fewer than model.moe.choices (", moe.choices, "): take a smaller ratio"));
  }
  if (const int64_t ranks = config.mesh.expert_parallel; ranks > 0 && moe.common_divisor() % ranks != 0) config.mesh.expert_parallel = 0;
  moe.router.replay.clear();
}

void make_experts_narrower(MoeConfig& moe, const PruneChoice& choice) {
  const auto narrow = [&](const char* key, int64_t& width) {
    width = kept_or_throw(concat(key, " (", width, ")"), width, choice, choice.multiple > 0 ? choice.multiple : usual_multiple(width));
  };
  const auto takes_it = [](const ExpertGroupConfig& group) { return group.width == 0; };
  if (moe.groups.empty() || std::any_of(moe.groups.begin(), moe.groups.end(), takes_it)) narrow("model.moe.expert_width", moe.expert_width);
  for (ExpertGroupConfig& group : moe.groups) {
    if (!takes_it(group)) narrow(concat("width of group ", group.name).c_str(), group.width);
  }
}

}  // namespace

int64_t kept_count(int64_t count, double ratio, int64_t multiple) {
  const int64_t most = (count - 1) / multiple;
  const double wanted = (1.0 - ratio) * static_cast<double>(count) / static_cast<double>(multiple);
  constexpr double kRounding = 1e-9;  // (1 - 0.3) * 10 is a little less than 7
  return std::clamp<int64_t>(static_cast<int64_t>(std::floor(wanted + 0.5 + kRounding)), std::min<int64_t>(1, most), most) * multiple;
}

int64_t usual_multiple(int64_t width) {
  int64_t multiple = 1;
  while (multiple < kLargestMultiple && width % (2 * multiple) == 0 && 2 * multiple * 16 <= width) multiple *= 2;
  return multiple;
}

TrainConfig smaller_config(TrainConfig config, const PruneChoice& choice) {
  ModelConfig& model = config.model;
  if (model.moe_layers() == 0) {
    throw ConfigError(
        concat("model.moe.experts (", model.moe.experts, ") in ", counted(model.moe_layers(), "layer"), ": there are no experts to prune"));
  }
  if (model.quantization.exists()) {
    throw ConfigError(concat("model.quantization.kind (", model.quantization.word(),
                             "): int8 weights are not pruned; prune the checkpoint that it was made of, and quantize what comes out"));
  }
  if (choice.kind == PruneKind::kChannels) {
    make_experts_narrower(model.moe, choice);
  } else {
    make_experts_fewer(config, choice);
  }
  for (const ExpertGroupConfig& group : model.moe.expert_groups()) {
    if (choice.kind == PruneKind::kMerge && group.layers != 2) {
      throw ConfigError(concat("the experts of group ", group.name, " have ", group.layers,
                               " matrices: --kind merge lays channels over each other in experts of two alone"));
    }
  }
  model.initial_weights.clear();
  model.upcycle.clear();
  return config;
}

std::vector<ExpertCell> cells_of(const MoeConfig& before, const MoeConfig& after) {
  std::vector<ExpertCell> cells;
  if (before.groups.empty()) {
    const int64_t groups = before.router.groups;
    const int64_t count = before.experts / groups;
    for (int64_t cell = 0; cell < groups; ++cell)
      cells.push_back({.group = 0, .first = cell * count, .count = count, .kept = after.experts / groups});
    return cells;
  }
  int64_t first = 0;
  for (size_t group = 0; group < before.groups.size(); ++group) {
    const int64_t count = before.groups[group].count;
    cells.push_back({.group = group, .first = first, .count = count, .kept = after.groups[group].count});
    first += count;
  }
  return cells;
}

std::vector<int64_t> places_of_largest(const at::Tensor& values, int64_t count) {
  const at::Tensor numbers = values.to(at::kDouble).contiguous();
  const double* value = numbers.const_data_ptr<double>();
  std::vector<int64_t> places(static_cast<size_t>(numbers.numel()));
  std::iota(places.begin(), places.end(), 0);
  std::stable_sort(places.begin(), places.end(), [&](int64_t a, int64_t b) { return value[a] > value[b]; });
  places.resize(static_cast<size_t>(count));
  std::sort(places.begin(), places.end());
  return places;
}

LayerPlan plan_experts(const LayerImportance& importance, const std::vector<ExpertCell>& cells) {
  LayerPlan plan;
  double stays = 0.0;
  for (const ExpertCell& cell : cells) {
    for (const int64_t place : places_of_largest(importance.experts.narrow(0, cell.first, cell.count), cell.kept)) {
      plan.recipe.experts.push_back({{.expert = cell.first + place}});
      stays += importance.experts[cell.first + place].item<double>();
    }
  }
  const double all = importance.experts.sum().item<double>();
  plan.lost = all > 0 ? std::max(0.0, 1.0 - stays / all) : 0.0;
  return plan;
}

LayerPlan plan_channels(const LayerImportance& importance, const MoeConfig& before, const MoeConfig& after) {
  LayerPlan plan;
  double stays = 0.0, all = 0.0;
  const std::vector<ExpertGroup> groups = expert_groups_of("", before);
  const std::vector<ExpertGroupConfig> narrower = after.expert_groups();
  for (size_t index = 0; index < groups.size(); ++index) {
    for (int64_t expert = 0; expert < groups[index].shape.count; ++expert) {
      ExpertPart part{.expert = groups[index].first + expert};
      for (const at::Tensor& channels : importance.channels[index]) {
        const at::Tensor of_expert = channels[expert];
        part.channels.push_back(at::tensor(places_of_largest(of_expert, narrower[index].width), at::kLong));
        if (part.channels.size() < importance.channels[index].size()) continue;
        stays += of_expert.index_select(0, part.channels.back()).sum().item<double>();
        all += of_expert.sum().item<double>();
      }
      plan.recipe.experts.push_back({std::move(part)});
    }
  }
  plan.lost = all > 0 ? std::max(0.0, 1.0 - stays / all) : 0.0;
  return plan;
}

}  // namespace pimoe
