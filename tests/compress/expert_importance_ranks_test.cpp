/// The sums that say what experts and channels did, against a loop over tokens and experts, whatever the ranks.

#include "compress/expert_importance.h"

#include "compress/pruned_layer.h"
#include "compress/pruning_plan.h"
#include "support/ranks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

constexpr int64_t kWidth = 7;

/// Ragged, and none on rank 1.
at::Tensor tokens_of(int rank) {
  at::manual_seed(static_cast<uint64_t>(rank) + 40);
  return at::randn({rank == 1 ? 0 : 13 + 5 * rank, kWidth}, at::kDouble);
}

struct PlainSums {
  std::vector<double> experts;
  std::vector<int64_t> loads;
  std::vector<std::vector<std::vector<std::vector<double>>>> channels;  ///< [group][hidden][expert][channel]
};

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

using Numbers = std::vector<double>;

Numbers product(const at::Tensor& matrix, const Numbers& x) {
  Numbers result(static_cast<size_t>(matrix.size(0)), 0.0);
  for (size_t row = 0; row < result.size(); ++row) {
    for (size_t column = 0; column < x.size(); ++column) {
      result[row] += matrix[static_cast<int64_t>(row)][static_cast<int64_t>(column)].item<double>() * x[column];
    }
  }
  return result;
}

double column_norm(const at::Tensor& matrix, int64_t column) {
  double sum = 0.0;
  for (int64_t row = 0; row < matrix.size(0); ++row) sum += std::pow(matrix[row][column].item<double>(), 2);
  return std::sqrt(sum);
}

PlainSums plain_sums(const LayerFixture& fixture, int ranks) {
  const MoeConfig& config = fixture.config;
  const at::NoGradGuard no_gradients;
  PlainSums sums;
  sums.experts.assign(static_cast<size_t>(config.experts), 0.0);
  sums.loads.assign(static_cast<size_t>(config.experts), 0);
  const std::vector<ExpertGroup> groups = expert_groups_of("moe", config);
  for (const ExpertGroup& group : groups) {
    sums.channels.emplace_back(static_cast<size_t>(group.hidden_layers()),
                               std::vector(static_cast<size_t>(group.shape.count), Numbers(static_cast<size_t>(group.shape.width), 0.0)));
  }
  for (int rank = 0; rank < ranks; ++rank) {
    const at::Tensor tokens = tokens_of(rank);
    for (int64_t t = 0; t < tokens.size(0); ++t) {
      Numbers token;
      for (int64_t d = 0; d < kWidth; ++d) token.push_back(tokens[t][d].item<double>());
      const Numbers logits = product(fixture.whole.at("moe.router.weight"), token);
      const std::vector<int64_t> order = falling_order(logits);
      double all = 0.0;
      for (int64_t k = 0; k < config.choices; ++k) all += std::exp(logits[static_cast<size_t>(order[static_cast<size_t>(k)])]);
      for (int64_t k = 0; k < config.choices; ++k) {
        const int64_t chosen = order[static_cast<size_t>(k)];
        const double gate = std::exp(logits[static_cast<size_t>(chosen)]) / all;
        size_t group = 0;
        while (chosen >= groups[group].first + groups[group].shape.count) ++group;
        const int64_t local = chosen - groups[group].first;
        const ExpertGroupConfig& shape = groups[group].shape;
        const std::vector<std::string> names = groups[group].matrices();
        Numbers hidden = product(fixture.whole.at(names[0])[local], token);
        if (is_gated(shape.activation)) {
          for (int64_t f = 0; f < shape.width; ++f) {
            hidden[static_cast<size_t>(f)] = silu(hidden[static_cast<size_t>(f)]) * hidden[static_cast<size_t>(f + shape.width)];
          }
          hidden.resize(static_cast<size_t>(shape.width));
        } else {
          for (double& x : hidden) x = gelu(x);
        }
        for (size_t matrix = 1; matrix < names.size(); ++matrix) {
          const bool last = matrix + 1 == names.size();
          const at::Tensor weights = fixture.whole.at(names[matrix])[local];
          for (int64_t f = 0; f < shape.width; ++f) {
            sums.channels[group][matrix - 1][static_cast<size_t>(local)][static_cast<size_t>(f)] +=
                (last ? gate : 1.0) * std::abs(hidden[static_cast<size_t>(f)]) * column_norm(weights, f);
          }
          hidden = product(weights, hidden);
          if (last) continue;
          for (double& x : hidden) x = gelu(x);
        }
        double square = 0.0;
        for (const double x : hidden) square += x * x;
        sums.experts[static_cast<size_t>(chosen)] += gate * std::sqrt(square);
        ++sums.loads[static_cast<size_t>(chosen)];
      }
    }
  }
  return sums;
}

MoeConfig layer(MoeExchange exchange, bool of_two_shapes) {
  MoeConfig config = small_moe(12, 3, /*renormalize=*/true);
  config.memory = MoeMemory::kLean;
  config.exchange = exchange;
  if (of_two_shapes) {
    config.experts = 24;
    config.groups = {{.name = "plain", .count = 12, .activation = Activation::kSwiglu, .layers = 2, .width = 6},
                     {.name = "deep", .count = 12, .activation = Activation::kGelu, .layers = 3, .width = 5}};
  }
  return config;
}

TEST(ExpertImportance, IsThatOfAPlainLoopOnAnyRanks) {
  for (const auto& [exchange, of_two_shapes] :
       {std::pair{MoeExchange::kRows, false}, std::pair{MoeExchange::kTokens, false}, std::pair{MoeExchange::kRows, true}}) {
    const MoeConfig config = layer(exchange, of_two_shapes);
    const auto mesh = world_mesh(cpu_mesh(), config.common_divisor());
    LayerFixture fixture(config, kWidth, *mesh, 17);
    ExpertImportance importance(fixture.parameters, config, {"moe"});
    const at::NoGradGuard no_gradients;
    std::optional<RoutingMemo> memo;
    fixture.layer.forward(tokens_of(static_cast<int>(mesh->rank())), {0, 64}, memo);
    const LayerImportance measured = importance.over(mesh->control())[0];
    const PlainSums plain = plain_sums(fixture, static_cast<int>(mesh->size()));
    for (int64_t expert = 0; expert < config.experts; ++expert) {
      EXPECT_EQ(measured.loads[expert].item<int64_t>(), plain.loads[static_cast<size_t>(expert)]);
      EXPECT_NEAR(measured.experts[expert].item<double>(), plain.experts[static_cast<size_t>(expert)], 1e-11);
    }
    for (size_t group = 0; group < plain.channels.size(); ++group) {
      for (size_t hidden = 0; hidden < plain.channels[group].size(); ++hidden) {
        const at::Tensor& channels = measured.channels[group][hidden];
        for (int64_t expert = 0; expert < channels.size(0); ++expert) {
          for (int64_t f = 0; f < channels.size(1); ++f) {
            EXPECT_NEAR(channels[expert][f].item<double>(),
                        plain.channels[group][hidden][static_cast<size_t>(expert)][static_cast<size_t>(f)], 1e-11)
                << "group " << group << " hidden " << hidden << " expert " << expert << " channel " << f;
          }
        }
      }
    }
  }
}

TEST(ExpertImportance, OfNoTokenIsZeroAndTheFirstExpertsStay) {
  const MoeConfig config = layer(MoeExchange::kRows, false);
  const auto mesh = world_mesh(cpu_mesh(), config.common_divisor());
  LayerFixture fixture(config, kWidth, *mesh, 17);
  ExpertImportance importance(fixture.parameters, config, {"moe"});
  const at::NoGradGuard no_gradients;
  std::optional<RoutingMemo> memo;
  fixture.layer.forward(at::zeros({0, kWidth}, at::kDouble), {0, 0}, memo);
  const LayerImportance measured = importance.over(mesh->control())[0];
  EXPECT_EQ(measured.loads.sum().item<int64_t>(), 0);
  const LayerPlan plan = plan_experts(measured, {{.group = 0, .first = 0, .count = 12, .kept = 2}});
  EXPECT_EQ(plan.recipe.experts[1][0].expert, 1);
  EXPECT_EQ(plan.lost, 0.0);
}

TEST(ExpertImportance, LeavesTheLayerAsItWasOnceItIsGone) {
  const MoeConfig config = layer(MoeExchange::kRows, false);
  const auto mesh = world_mesh(cpu_mesh(), config.common_divisor());
  LayerFixture fixture(config, kWidth, *mesh, 17);
  { const ExpertImportance importance(fixture.parameters, config, {"moe"}); }
  for (const auto& parameter : fixture.parameters) EXPECT_FALSE(parameter->watch) << parameter->name;
}

}  // namespace
}  // namespace pimoe
