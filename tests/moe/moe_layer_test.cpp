#include "moe/balance.h"
#include "moe/layer_fixture.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <random>

namespace pimoe {
namespace {

MoeConfig small(int64_t experts, int64_t choices, bool renormalize) {
  MoeConfig config;
  config.experts = experts;
  config.choices = choices;
  config.expert_width = 6;
  config.router.renormalize = renormalize;
  return config;
}

/// Output, both losses and every gradient against the loop.
void expect_equal_to_reference(const MoeConfig& config, int64_t tokens, uint64_t seed, const at::Tensor& bias) {
  SCOPED_TRACE(testing::Message() << "E " << config.experts << " K " << config.choices << " T " << tokens << " seed " << seed);
  const auto mesh = single_mesh(cpu_mesh(), config.experts);
  LayerFixture fixture(config, 5, *mesh, seed);
  fixture.layer.router().bias().copy_(bias);
  at::manual_seed(seed);
  const at::Tensor input = at::randn({tokens, 5}, at::kDouble);
  const at::Tensor gradient = at::randn({tokens, 5}, at::kDouble);

  const at::Tensor ours = input.clone().requires_grad_(true);
  std::optional<RoutingMemo> memo;
  const MoEOutput output = fixture.layer.forward(ours, memo);
  const BalanceTerms balance =
      balance_terms({output.record}, {.switch_loss = 0.7, .z_loss = 0.3}, std::max<double>(1, tokens), mesh->group(Group::kBatch));
  ((output.tokens * gradient).sum() + balance.loss).backward();

  EXPECT_EQ(output.record.load.sum().item<int64_t>(), tokens * config.choices);
  for (const auto& parameter : fixture.parameters) ASSERT_TRUE(parameter->value.grad().defined()) << parameter->name;
  if (tokens == 0) {
    EXPECT_EQ(output.tokens.numel(), 0);
    for (const auto& parameter : fixture.parameters) EXPECT_EQ(parameter->value.grad().abs().max().item<double>(), 0.0);
    return;  // the loop would make no graph
  }

  const at::Tensor theirs = input.clone().requires_grad_(true);
  const ReferenceOutput expected = reference_moe(theirs, fixture.weights, bias, config);
  ((expected.tokens * gradient).sum() + 0.7 * expected.switch_loss + 0.3 * expected.z_loss).backward();
  EXPECT_LT(relative_difference(output.tokens, expected.tokens), 1e-12);
  EXPECT_NEAR(balance.switch_part.item<double>(), expected.switch_loss.item<double>(), 1e-12);
  EXPECT_NEAR(balance.z_part.item<double>(), expected.z_loss.item<double>(), 1e-10);
  EXPECT_LT(relative_difference(ours.grad(), theirs.grad()), 1e-11);
  // The router's and the experts' gradients are in `grad`: no reducer moved them.
  EXPECT_LT(relative_difference(fixture.parameters.at("moe.router.weight").value.grad(), fixture.weights.router.grad()), 1e-11);
  EXPECT_LT(relative_difference(fixture.parameters.at("moe.experts.gate_up.weight").value.grad(), fixture.weights.gate_up.grad()), 1e-11);
  EXPECT_LT(relative_difference(fixture.parameters.at("moe.experts.down.weight").value.grad(), fixture.weights.down.grad()), 1e-11);
}

TEST(MoELayer, EqualsALoopOverTokensAndExpertsAtRandomShapes) {
  std::mt19937 random(20);
  for (int round = 0; round < 60; ++round) {
    const int64_t experts = 1 + static_cast<int64_t>(random() % 9);
    const int64_t choices = 1 + static_cast<int64_t>(random()) % experts;
    const MoeConfig config = small(experts, choices, random() % 2 == 0);
    expect_equal_to_reference(config, static_cast<int64_t>(random() % 12), random(), at::zeros({experts}, at::kDouble));
  }
}

TEST(MoELayer, OneTokenAndNoTokenAreOrdinary) {
  expect_equal_to_reference(small(4, 2, true), 1, 3, at::zeros({4}, at::kDouble));
  expect_equal_to_reference(small(4, 2, true), 0, 3, at::zeros({4}, at::kDouble));
}

TEST(MoELayer, ExpertsWithoutARowGetZeroGradients) {
  at::Tensor bias = at::zeros({6}, at::kDouble);
  bias.slice(0, 0, 3).fill_(-10);  // the first three are never chosen
  expect_equal_to_reference(small(6, 2, true), 9, 5, bias);
}

TEST(MoELayer, BiasChangesTheChoiceButNeverTheGates) {
  const MoeConfig config = small(5, 2, false);
  const auto mesh = single_mesh(cpu_mesh(), 5);
  LayerFixture fixture(config, 5, *mesh, 11);
  at::manual_seed(7);
  const at::Tensor input = at::randn({8, 5}, at::kDouble);
  fixture.layer.router().bias()[4] = 10;
  const Routing routing = fixture.layer.router().route(input, {});
  const at::Tensor p = at::softmax(at::mm(input, fixture.weights.router.detach().t()), -1);
  EXPECT_TRUE((routing.experts.select(1, 0) == 4).all().item<bool>());
  EXPECT_LT(relative_difference(routing.weights.select(1, 0), p.select(1, 4)), 1e-14);
}

TEST(MoELayer, TiesGoToTheLowerIndex) {
  const MoeConfig config = small(6, 3, true);
  const auto mesh = single_mesh(cpu_mesh(), 6);
  LayerFixture fixture(config, 5, *mesh, 11);
  const Routing routing = fixture.layer.router().route(at::zeros({4, 5}, at::kDouble), {});
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t k = 0; k < 3; ++k) EXPECT_EQ(routing.experts[t][k].item<int>(), k);
  }
}

TEST(MoELayer, AMemoReplaysTheDecisionWhateverTheScoresSayNow) {
  const MoeConfig config = small(6, 2, true);
  const auto mesh = single_mesh(cpu_mesh(), 6);
  LayerFixture fixture(config, 5, *mesh, 11);
  at::manual_seed(9);
  const at::Tensor input = at::randn({7, 5}, at::kDouble);
  std::optional<RoutingMemo> memo;
  const at::Tensor first = fixture.layer.forward(input, memo).tokens;
  fixture.layer.router().bias().copy_(at::arange(6, at::kDouble) * 5);  // would choose experts 4 and 5 now
  EXPECT_TRUE(at::equal(fixture.layer.forward(input, memo).tokens, first));
  std::optional<RoutingMemo> anew;
  EXPECT_FALSE(at::equal(fixture.layer.forward(input, anew).tokens, first));
}

// Five tokens, two choices, four experts: 0 1 | 2 3 | 0 1 | 2 3 | 0 1, and half of each expert's result.
TEST(MoELayer, TheUniformRouterSpreadsTokensWhateverTheyAre) {
  MoeConfig config = small(4, 2, true);
  config.router.kind = RouterKind::kUniform;
  const auto mesh = single_mesh(cpu_mesh(), 4);
  LayerFixture fixture(config, 5, *mesh, 11);
  at::manual_seed(7);
  const Routing routing = fixture.layer.router().route(at::randn({5, 5}, at::kDouble), {});
  EXPECT_TRUE(at::equal(routing.experts.view({-1}), at::tensor({0, 1, 2, 3, 0, 1, 2, 3, 0, 1}, at::kInt)));
  EXPECT_TRUE((routing.weights == 0.5).all().item<bool>());
  std::optional<RoutingMemo> memo;
  const at::Tensor input = at::randn({5, 5}, at::kDouble).requires_grad_(true);
  fixture.layer.forward(input, memo).tokens.sum().backward();
  EXPECT_FALSE(fixture.parameters.at("moe.router.weight").value.grad().defined());
}

TEST(MoELayer, TheSharedExpertIsAddedForEveryToken) {
  MoeConfig config = small(4, 2, true);
  const auto mesh = single_mesh(cpu_mesh(), 4);
  config.shared_width = 7;
  LayerFixture with(config, 5, *mesh, 11);
  const at::Tensor input = at::ones({3, 5}, at::kDouble);
  const at::NoGradGuard no_gradients;
  for (const char* name : {"moe.shared.gate_up.weight", "moe.shared.down.weight"}) with.parameters.at(name).value.fill_(0.1);
  std::optional<RoutingMemo> memo;
  const at::Tensor output = with.layer.forward(input, memo).tokens;
  const ReferenceOutput routed = reference_moe(input, with.weights, at::zeros({4}, at::kDouble), config);
  const double inner = 0.5;  // 5 inputs of 1 times 0.1
  const double shared = 7 * 0.1 * (inner / (1 + std::exp(-inner)) * inner);
  EXPECT_LT(relative_difference(output - shared, routed.tokens), 1e-12);
}

// Loads 8, 4, 0, 4: mean 4. One step of rate 0.1: -0.1, 0, +0.1, 0; the mean is 0 already.
TEST(LossFreeBias, MovesAgainstTheLoadAndStaysCentred) {
  at::Tensor bias = at::zeros({4}, at::kDouble);
  update_bias(bias, at::tensor({8, 4, 0, 4}, at::kLong), 0.1);
  EXPECT_TRUE(at::allclose(bias, at::tensor({-0.1, 0.0, 0.1, 0.0}, at::kDouble)));
  // Loads 9, 1, 1, 1: mean 3. Steps -0.1 +0.1 +0.1 +0.1, then centred by 0.05.
  update_bias(bias, at::tensor({9, 1, 1, 1}, at::kLong), 0.1);
  EXPECT_TRUE(at::allclose(bias, at::tensor({-0.25, 0.05, 0.15, 0.05}, at::kDouble)));
}

TEST(MoeConfig, RefusesMoreChoicesThanExpertsAndACapacityFactor) {
  MoeConfig config = small(4, 5, true);
  config.capacity_factor = 1.25;
  Violations violations;
  config.validate("model.moe", violations);
  ASSERT_EQ(violations.lines().size(), 2u);
  EXPECT_EQ(violations.lines()[0].first, "model.moe.choices");
  EXPECT_EQ(violations.lines()[1].first, "model.moe.capacity_factor");
}

}  // namespace
}  // namespace pimoe
