#include "moe/layer_check.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace pimoe {
namespace {

void expect_equal_to_reference(const MoeConfig& config, int64_t tokens, uint64_t seed, const at::Tensor& bias) {
  const auto mesh = single_mesh(cpu_mesh(), config.common_divisor());
  expect_equal_to_loop({.config = config, .sequences = {tokens}, .seed = seed, .bias = bias}, *mesh);
}

TEST(MoELayer, EqualsALoopOverTokensAndExpertsForEveryRouterLimitAndShape) {
  std::mt19937 random(20);
  for (int round = 0; round < 400; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    const LayerCase made = random_layer(random, 1, 1);
    const auto mesh = single_mesh(cpu_mesh(), made.config.common_divisor());
    expect_equal_to_loop(made, *mesh);
    if (testing::Test::HasFailure()) return;  // the first is the one to read
  }
}

TEST(MoELayer, OneTokenAndNoTokenAreOrdinary) {
  expect_equal_to_reference(small_moe(4, 2, true), 1, 3, at::zeros({4}, at::kDouble));
  expect_equal_to_reference(small_moe(4, 2, true), 0, 3, at::zeros({4}, at::kDouble));
}

TEST(MoELayer, ExpertsWithoutARowGetZeroGradients) {
  at::Tensor bias = at::zeros({6}, at::kDouble);
  bias.slice(0, 0, 3).fill_(-10);  // the first three are never chosen
  expect_equal_to_reference(small_moe(6, 2, true), 9, 5, bias);
}

TEST(MoELayer, AMemoReplaysTheDecisionWhateverTheScoresSayNow) {
  const MoeConfig config = small_moe(6, 2, true);
  const auto mesh = single_mesh(cpu_mesh(), 6);
  LayerFixture fixture(config, 5, *mesh, 11);
  at::manual_seed(9);
  const at::Tensor input = at::randn({7, 5}, at::kDouble);
  std::optional<RoutingMemo> memo;
  const at::Tensor first = fixture.layer.forward(input, alone(input), memo).tokens;
  fixture.layer.router().bias().copy_(at::arange(6, at::kDouble) * 5);  // would choose experts 4 and 5 now
  EXPECT_TRUE(at::equal(fixture.layer.forward(input, alone(input), memo).tokens, first));
  std::optional<RoutingMemo> anew;
  EXPECT_FALSE(at::equal(fixture.layer.forward(input, alone(input), anew).tokens, first));
}

TEST(MoELayer, ANonFiniteResultIsReplacedCountedAndReachesNoWeight) {
  for (const int64_t fallback : {0, 4}) {
    MoeConfig config = small_moe(4, 2, true);
    config.checks = MoeValidate::kFull;
    config.shared_width = 3;
    config.fallback_width = fallback;
    const auto mesh = single_mesh(cpu_mesh(), 4);
    LayerFixture fixture(config, 5, *mesh, 3);
    {
      const at::NoGradGuard no_gradients;
      fixture.parameters.at("moe.experts.down.weight").value[2].fill_(std::numeric_limits<double>::infinity());
    }
    at::manual_seed(4);
    const at::Tensor input = at::randn({9, 5}, at::kDouble).requires_grad_(true);
    std::optional<RoutingMemo> memo;
    const MoEOutput output = fixture.layer.forward(input, alone(input), memo);
    const at::Tensor bad = (memo->experts == 2).any(1);
    ASSERT_TRUE(bad.any().item<bool>());
    EXPECT_EQ(output.record.nonfinite.item<int64_t>(), (memo->experts == 2).sum().item<int64_t>());
    EXPECT_EQ(output.record.fallback.item<int64_t>(), bad.sum().item<int64_t>());
    EXPECT_TRUE(at::isfinite(output.tokens).all().item<bool>());
    for (int64_t t = 0; t < 9; ++t) {
      if (!bad[t].item<bool>()) continue;
      at::Tensor expected = reference_expert(fixture.weights.shared[0], input.detach()[t]);
      if (fallback > 0) expected = expected + reference_expert(fixture.weights.fallback[0], input.detach()[t]);
      EXPECT_LT(relative_difference(output.tokens[t], expected), 1e-12) << "token " << t;
    }
    output.tokens.square().sum().backward();
    EXPECT_TRUE(at::isfinite(input.grad()).all().item<bool>());
    for (const auto& parameter : fixture.parameters) {
      const at::Tensor& gradient = parameter->value.grad();
      EXPECT_TRUE(!gradient.defined() || at::isfinite(gradient).all().item<bool>()) << parameter->name;
    }
  }
}

}  // namespace
}  // namespace pimoe
