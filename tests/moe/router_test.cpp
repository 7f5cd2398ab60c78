#include "moe/layer_fixture.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

TEST(Router, BiasChangesTheChoiceButNeverTheGates) {
  const MoeConfig config = small_moe(5, 2, false);
  const auto mesh = single_mesh(cpu_mesh(), 5);
  LayerFixture fixture(config, 5, *mesh, 11);
  at::manual_seed(7);
  const at::Tensor input = at::randn({8, 5}, at::kDouble);
  fixture.layer.router().bias()[4] = 10;
  const Routing routing = fixture.layer.router().route(input, alone(input), {});
  const at::Tensor p = at::softmax(at::mm(input, fixture.weights.router.detach().t()), -1);
  EXPECT_TRUE((routing.experts.select(1, 0) == 4).all().item<bool>());
  EXPECT_LT(relative_difference(routing.weights.select(1, 0), p.select(1, 4)), 1e-14);
}

TEST(Router, TiesGoToTheLowerIndex) {
  const MoeConfig config = small_moe(6, 3, true);
  const auto mesh = single_mesh(cpu_mesh(), 6);
  LayerFixture fixture(config, 5, *mesh, 11);
  const Routing routing = fixture.layer.router().route(at::zeros({4, 5}, at::kDouble), {0, 4}, {});
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t k = 0; k < 3; ++k) EXPECT_EQ(routing.experts[t][k].item<int>(), k);
  }
}

// Five tokens, two choices, four experts: 0 1 | 2 3 | 0 1 | 2 3 | 0 1, and half of each expert's result.
TEST(Router, TheUniformRouterSpreadsTokensWhateverTheyAre) {
  MoeConfig config = small_moe(4, 2, true);
  config.router.kind = RouterKind::kUniform;
  const auto mesh = single_mesh(cpu_mesh(), 4);
  LayerFixture fixture(config, 5, *mesh, 11);
  at::manual_seed(7);
  const Routing routing = fixture.layer.router().route(at::randn({5, 5}, at::kDouble), {0, 5}, {});
  EXPECT_TRUE(at::equal(routing.experts.view({-1}), at::tensor({0, 1, 2, 3, 0, 1, 2, 3, 0, 1}, at::kInt)));
  EXPECT_TRUE((routing.weights == 0.5).all().item<bool>());
  std::optional<RoutingMemo> memo;
  const at::Tensor input = at::randn({5, 5}, at::kDouble).requires_grad_(true);
  fixture.layer.forward(input, alone(input), memo).tokens.sum().backward();
  EXPECT_FALSE(fixture.parameters.at("moe.router.weight").value.grad().defined());
}

// The noise of a token is its own, whoever computes it and in whatever pieces.
TEST(Router, JitterFollowsTheGlobalTokenAndOnlyTrainingHasIt) {
  MoeConfig config = small_moe(6, 2, false);
  config.router.jitter = 0.3;
  const auto mesh = single_mesh(cpu_mesh(), 6);
  LayerFixture fixture(config, 5, *mesh, 11);
  at::manual_seed(7);
  const at::Tensor input = at::randn({8, 5}, at::kDouble);
  BatchContext context(100, 8);
  context.training = true;
  context.seed = 3;
  context.step = 12;
  const Router& router = fixture.layer.router();
  const Routing whole = router.route(input, context, {});
  BatchContext later = context;
  later.first_token = 103;
  EXPECT_LT(relative_difference(router.route(input.slice(0, 3), later, {}).weights, whole.weights.slice(0, 3)), 1e-13);
  context.step = 13;
  EXPECT_FALSE(at::equal(router.route(input, context, {}).weights, whole.weights));
  context.training = false;
  EXPECT_TRUE(at::equal(router.route(input, context, {}).weights, router.route(input, alone(input), {}).weights));
}

// Logits 3 -3 | 2 2 of two groups, one of which a token may use: the first has the best expert, the second the better pair.
TEST(Router, AGroupIsJudgedByItsBestExpertsOrByItsBest) {
  MoeConfig config = small_moe(4, 2, false);
  config.router.pre_softmax = false;
  config.router.groups = 2;
  const auto mesh = single_mesh(cpu_mesh(), 4);
  const auto chosen = [&](GroupScore score, int64_t top) {
    config.router.group_score = score;
    config.router.group_top = top;
    LayerFixture fixture(config, 1, *mesh, 11);
    const at::NoGradGuard no_gradients;
    fixture.parameters.at("moe.router.weight").value.copy_(at::tensor({3.0, -3.0, 2.0, 2.0}, at::kDouble).view({4, 1}));
    const Routing routing = fixture.layer.router().route(at::ones({1, 1}, at::kDouble), {0, 1}, {});
    return std::pair{routing.experts[0][0].item<int>(), routing.experts[0][1].item<int>()};
  };
  EXPECT_EQ(chosen(GroupScore::kMax, 0), std::pair(0, 1));
  EXPECT_EQ(chosen(GroupScore::kSum, 0), std::pair(2, 3)) << "auto: choices / group_choices = 2";
  EXPECT_EQ(chosen(GroupScore::kSum, 1), std::pair(0, 1));
  EXPECT_EQ(chosen(GroupScore::kSum, 2), std::pair(2, 3));
}

TEST(Router, TheHashRouterKnowsATokenByItsId) {
  MoeConfig config = small_moe(6, 2, false);
  config.router.kind = RouterKind::kHash;
  const auto mesh = single_mesh(cpu_mesh(), 6);
  LayerFixture fixture(config, 5, *mesh, 11, /*vocabulary=*/50);
  BatchContext context(0, 50);
  context.token_ids = at::arange(50, at::kLong);
  const Routing routing = fixture.layer.router().route(at::zeros({50, 5}, at::kDouble), context, {});
  context.token_ids = at::tensor({7, 49, 7}, at::kLong);
  const Routing again = fixture.layer.router().route(at::randn({3, 5}, at::kDouble), context, {});
  EXPECT_TRUE(at::equal(again.experts, routing.experts.index_select(0, context.token_ids)));
  EXPECT_TRUE((routing.weights == 0.5).all().item<bool>());
  EXPECT_TRUE((routing.experts.select(1, 0) != routing.experts.select(1, 1)).all().item<bool>());
  EXPECT_GT(std::get<0>(at::_unique(routing.experts)).numel(), 5) << "all experts are used";
}

}  // namespace
}  // namespace pimoe
