#include "compress/expert_merging.h"

#include "moe/expert_bank.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace pimoe {
namespace {

constexpr int64_t kTokensTogether = 32;
constexpr int64_t kChannelsTogether = 256;

/// What an expert makes of tokens, by the bank that would have it.
at::Tensor outputs_of(const ExpertGroup& group, int64_t expert, const at::Tensor& tokens, const ExpertReader& read) {
  ParameterList parameters;
  ExpertGroupConfig alone = group.shape;
  alone.count = 1;
  const ExpertPlacement::Bank bank{.experts = 1, .local = 1};
  const ExpertBank one(parameters, group.name, alone, bank, tokens.size(1), tokens.scalar_type(), {});
  for (const std::string& matrix : group.matrices())
    parameters.at(matrix).value = read(matrix, expert).to(tokens.scalar_type()).unsqueeze(0);
  return one.forward(tokens, {}, at::full({1}, tokens.size(0), tokens.options().dtype(at::kInt)));
}

/// [F, N]: of each channel what reads it and what it writes.
at::Tensor channels_of(const ExpertGroup& group, int64_t expert, const ExpertReader& read) {
  const std::vector<std::string> matrices = group.matrices();
  const at::Tensor up = read(matrices.front(), expert).to(at::kFloat);
  const at::Tensor down = read(matrices.back(), expert).to(at::kFloat);
  if (!is_gated(group.shape.activation)) return at::cat({up, down.t()}, 1);
  const std::vector<at::Tensor> halves = up.chunk(2, 0);
  return at::cat({halves[0], halves[1], down.t()}, 1);
}

std::vector<ExpertPart> merged(const ExpertGroup& group, const std::vector<int64_t>& experts, const at::Tensor& loads,
                               const ExpertReader& read) {
  if (experts.size() == 1) return {{.expert = experts[0]}};
  const auto load_of = [&](int64_t expert) { return loads[expert].item<double>(); };
  double all = 0.0;
  for (const int64_t expert : experts) all += load_of(expert);
  const int64_t first = *std::max_element(experts.begin(), experts.end(), [&](int64_t a, int64_t b) { return load_of(a) < load_of(b); });
  const at::Tensor reference = channels_of(group, first, read);
  std::vector<ExpertPart> parts;
  for (const int64_t expert : experts) {
    ExpertPart part{.expert = expert, .weight = all > 0 ? load_of(expert) / all : 1.0 / static_cast<double>(experts.size())};
    if (part.weight == 0) continue;
    if (expert != first) part.channels = {aligned_channels(reference, channels_of(group, expert, read))};
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace

at::Tensor output_products(const at::Tensor& outputs) {
  at::Tensor products = at::zeros({outputs.size(0), outputs.size(0)}, at::kDouble);
  for (int64_t begin = 0; begin < outputs.size(1); begin += kTokensTogether) {
    const int64_t count = std::min(kTokensTogether, outputs.size(1) - begin);
    const at::Tensor part = outputs.narrow(1, begin, count).to(at::kDouble).reshape({outputs.size(0), -1});
    products.add_(at::matmul(part, part.t()));
  }
  return products;
}

std::vector<std::vector<int64_t>> groups_to_merge(const at::Tensor& products, const at::Tensor& loads, int64_t kept) {
  const auto count = static_cast<size_t>(products.size(0));
  std::vector<std::vector<double>> product(count, std::vector<double>(count));  // of the groups' means
  std::vector<double> load(count);
  std::vector<std::vector<int64_t>> groups(count);
  for (size_t i = 0; i < count; ++i) {
    load[i] = loads[static_cast<int64_t>(i)].item<double>();
    groups[i] = {static_cast<int64_t>(i)};
    for (size_t j = 0; j < count; ++j) product[i][j] = products[static_cast<int64_t>(i)][static_cast<int64_t>(j)].item<double>();
  }
  const auto cost = [&](size_t a, size_t b) {
    const double together = load[a] + load[b];
    return together > 0 ? load[a] * load[b] / together * std::max(0.0, product[a][a] + product[b][b] - 2 * product[a][b]) : 0.0;
  };
  for (size_t left = count; left > static_cast<size_t>(kept); --left) {
    double least = std::numeric_limits<double>::infinity();
    size_t first = 0, second = 0;
    for (size_t a = 0; a < count; ++a) {
      for (size_t b = a + 1; b < count; ++b) {
        if (groups[a].empty() || groups[b].empty() || cost(a, b) >= least) continue;
        least = cost(a, b);
        first = a;
        second = b;
      }
    }
    const double together = load[first] + load[second];
    const double share = together > 0 ? load[first] / together : 0.5;
    for (size_t other = 0; other < count; ++other)
      product[first][other] = share * product[first][other] + (1 - share) * product[second][other];
    for (size_t other = 0; other < count; ++other)
      product[other][first] = share * product[other][first] + (1 - share) * product[other][second];
    load[first] = together;
    groups[first].insert(groups[first].end(), groups[second].begin(), groups[second].end());
    std::sort(groups[first].begin(), groups[first].end());
    groups[second].clear();
  }
  std::erase_if(groups, [](const std::vector<int64_t>& group) { return group.empty(); });
  std::sort(groups.begin(), groups.end());
  return groups;
}

at::Tensor aligned_channels(const at::Tensor& reference, const at::Tensor& other) {
  const int64_t count = reference.size(0);
  const at::Tensor squares = reference.square().sum(1);
  const at::Tensor other_squares = other.square().sum(1);
  const at::Tensor order = at::argsort(squares, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor chosen = at::empty({count}, at::kLong);
  std::vector<bool> taken(static_cast<size_t>(count), false);
  for (int64_t begin = 0; begin < count; begin += kChannelsTogether) {
    const at::Tensor some = order.narrow(0, begin, std::min(kChannelsTogether, count - begin));
    // Of |a - b|^2 the part that differs between b.
    const at::Tensor distances = (other_squares - 2 * at::matmul(reference.index_select(0, some), other.t())).to(at::kFloat).contiguous();
    for (int64_t row = 0; row < some.numel(); ++row) {
      const float* distance = distances.const_data_ptr<float>() + row * count;
      int64_t nearest = -1;
      for (int64_t channel = 0; channel < count; ++channel) {
        if (taken[static_cast<size_t>(channel)]) continue;
        if (nearest < 0 || distance[channel] < distance[nearest]) nearest = channel;
      }
      taken[static_cast<size_t>(nearest)] = true;
      chosen.mutable_data_ptr<int64_t>()[some[row].item<int64_t>()] = nearest;
    }
  }
  return chosen;
}

LayerPlan plan_merging(const std::string& layer, const MoeConfig& before, const std::vector<ExpertCell>& cells,
                       const LayerImportance& importance, const at::Tensor& tokens, const ExpertReader& read) {
  const at::NoGradGuard no_gradients;
  const std::vector<ExpertGroup> groups = expert_groups_of(layer, before);
  LayerPlan plan;
  double stays = 0.0;
  for (const ExpertCell& cell : cells) {
    const ExpertGroup& group = groups[cell.group];
    std::vector<at::Tensor> outputs;
    for (int64_t expert = 0; expert < cell.count; ++expert) outputs.push_back(outputs_of(group, cell.first + expert, tokens, read));
    const at::Tensor loads = importance.loads.narrow(0, cell.first, cell.count);
    for (std::vector<int64_t> experts : groups_to_merge(output_products(at::stack(outputs)), loads, cell.kept)) {
      double most = 0.0;
      for (int64_t& expert : experts) {
        expert += cell.first;
        most = std::max(most, importance.experts[expert].item<double>());
      }
      stays += most;
      plan.recipe.experts.push_back(merged(group, experts, importance.loads, read));
    }
  }
  const double all = importance.experts.sum().item<double>();
  plan.lost = all > 0 ? std::max(0.0, 1.0 - stays / all) : 0.0;
  return plan;
}

}  // namespace pimoe
