/// What is counted of the rows that matrices multiply, against a loop over tokens and experts in float64, whatever the ranks.

#include "compress/calibration.h"

#include "base/errors.h"
#include "compress/pruned_layer.h"
#include "support/ranks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

namespace pimoe {
namespace {

constexpr int64_t kWidth = 7;

/// Ragged, and none on rank 1.
at::Tensor tokens_of(int rank) {
  at::manual_seed(static_cast<uint64_t>(rank) + 60);
  return at::randn({rank == 1 ? 0 : 11 + 4 * rank, kWidth}, at::kDouble);
}

MoeConfig layer_with(MoeExchange exchange) {
  MoeConfig config = small_moe(12, 3, /*renormalize=*/true);
  config.exchange = exchange;
  config.shared_width = 5;
  return config;
}

std::set<std::string> names() {
  return {"moe.experts.gate_up.weight", "moe.experts.down.weight", "moe.shared.gate_up.weight", "moe.shared.down.weight",
          "moe.router.weight"};
}

/// silu(gate) * up of a token
at::Tensor hidden_of(const at::Tensor& gate_up, const at::Tensor& token) {
  const std::vector<at::Tensor> halves = at::matmul(gate_up, token).chunk(2);
  return halves[0] * at::sigmoid(halves[0]) * halves[1];
}

/// By matrix, of each expert: the rows of all ranks' tokens, without a gate.
std::map<std::string, std::vector<std::vector<at::Tensor>>> plain_rows(const LayerFixture& fixture, int ranks) {
  const at::NoGradGuard no_gradients;
  std::map<std::string, std::vector<std::vector<at::Tensor>>> rows;
  for (const std::string& name : names()) rows[name].resize(name.find(".experts.") != std::string::npos ? 12 : 1);
  for (int rank = 0; rank < ranks; ++rank) {
    const at::Tensor tokens = tokens_of(rank);
    for (int64_t t = 0; t < tokens.size(0); ++t) {
      const at::Tensor token = tokens[t];
      rows["moe.router.weight"][0].push_back(token);
      rows["moe.shared.gate_up.weight"][0].push_back(token);
      rows["moe.shared.down.weight"][0].push_back(hidden_of(fixture.whole.at("moe.shared.gate_up.weight"), token));
      const at::Tensor logits = at::matmul(fixture.whole.at("moe.router.weight"), token);
      for (int k = 0; k < 3; ++k) {
        const int64_t expert = std::get<1>(at::sort(logits, 0, true))[k].item<int64_t>();
        rows["moe.experts.gate_up.weight"][static_cast<size_t>(expert)].push_back(token);
        rows["moe.experts.down.weight"][static_cast<size_t>(expert)].push_back(
            hidden_of(fixture.whole.at("moe.experts.gate_up.weight")[expert], token));
      }
    }
  }
  return rows;
}

TEST(SizeCounts, AreThoseOfRowsWithoutGatesInAPlainLoopOnAnyRanks) {
  for (const MoeExchange exchange : {MoeExchange::kRows, MoeExchange::kTokens}) {
    const MoeConfig config = layer_with(exchange);
    const auto mesh = world_mesh(cpu_mesh(), config.common_divisor());
    LayerFixture fixture(config, kWidth, *mesh, 18);
    const SizeCounts counts(fixture.parameters, config, names());
    const at::NoGradGuard no_gradients;
    std::optional<RoutingMemo> memo;
    fixture.layer.forward(tokens_of(static_cast<int>(mesh->rank())), {0, 64}, memo);
    const auto measured = counts.over(mesh->control());
    const auto plain = plain_rows(fixture, static_cast<int>(mesh->size()));
    for (const auto& [name, groups] : plain) {
      ASSERT_EQ(measured.at(name).size(0), static_cast<int64_t>(groups.size())) << name;
      for (size_t group = 0; group < groups.size(); ++group) {
        at::Tensor expected = at::zeros({1, kSizeBins}, at::kLong);
        if (!groups[group].empty()) count_sizes(at::stack(groups[group]), {}, expected);
        // A number on the border of two bins may be rounded into the other.
        const int64_t moved = (measured.at(name)[static_cast<int64_t>(group)] - expected[0]).abs().sum().item<int64_t>();
        EXPECT_LE(moved, 2) << name << " expert " << group;
        EXPECT_EQ(best_scale(measured.at(name)[static_cast<int64_t>(group)]) > 0, !groups[group].empty());
      }
    }
  }
}

TEST(SizeCounts, RefuseLayersThatWeighRowsByTheirGates) {
  for (const MoeMemory memory : {MoeMemory::kBalanced, MoeMemory::kLean}) {
    MoeConfig config = layer_with(MoeExchange::kRows);
    config.memory = memory;
    const auto mesh = world_mesh(cpu_mesh(), config.common_divisor());
    LayerFixture fixture(config, kWidth, *mesh, 18);
    EXPECT_THROW(SizeCounts(fixture.parameters, config, names()), ShapeError);
    for (const auto& parameter : fixture.parameters) EXPECT_FALSE(parameter->watch) << parameter->name;
  }
}

}  // namespace
}  // namespace pimoe
