#include "moe/capacity.h"
#include "moe/layer_check.h"
#include "ops/keyed_noise.h"
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
  const Routing routing = fixture.layer.router().route(input, alone(input), {});
  const at::Tensor p = at::softmax(at::mm(input, fixture.weights.router.detach().t()), -1);
  EXPECT_TRUE((routing.experts.select(1, 0) == 4).all().item<bool>());
  EXPECT_LT(relative_difference(routing.weights.select(1, 0), p.select(1, 4)), 1e-14);
}

TEST(MoELayer, TiesGoToTheLowerIndex) {
  const MoeConfig config = small(6, 3, true);
  const auto mesh = single_mesh(cpu_mesh(), 6);
  LayerFixture fixture(config, 5, *mesh, 11);
  const Routing routing = fixture.layer.router().route(at::zeros({4, 5}, at::kDouble), {0, 4}, {});
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
  const at::Tensor first = fixture.layer.forward(input, alone(input), memo).tokens;
  fixture.layer.router().bias().copy_(at::arange(6, at::kDouble) * 5);  // would choose experts 4 and 5 now
  EXPECT_TRUE(at::equal(fixture.layer.forward(input, alone(input), memo).tokens, first));
  std::optional<RoutingMemo> anew;
  EXPECT_FALSE(at::equal(fixture.layer.forward(input, alone(input), anew).tokens, first));
}

// Five tokens, two choices, four experts: 0 1 | 2 3 | 0 1 | 2 3 | 0 1, and half of each expert's result.
TEST(MoELayer, TheUniformRouterSpreadsTokensWhateverTheyAre) {
  MoeConfig config = small(4, 2, true);
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

// Loads 8, 4, 0, 4: mean 4. One step of rate 0.1: -0.1, 0, +0.1, 0; the mean is 0 already.
TEST(LossFreeBias, MovesAgainstTheLoadAndStaysCentred) {
  at::Tensor bias = at::zeros({4}, at::kDouble);
  update_bias(bias, at::tensor({8, 4, 0, 4}, at::kLong), 0.1, BiasLaw::kSign);
  EXPECT_TRUE(at::allclose(bias, at::tensor({-0.1, 0.0, 0.1, 0.0}, at::kDouble)));
  // Loads 9, 1, 1, 1: mean 3. Steps -0.1 +0.1 +0.1 +0.1, then centred by 0.05.
  update_bias(bias, at::tensor({9, 1, 1, 1}, at::kLong), 0.1, BiasLaw::kSign);
  EXPECT_TRUE(at::allclose(bias, at::tensor({-0.25, 0.05, 0.15, 0.05}, at::kDouble)));
}

TEST(LossFreeBias, MovesInProportionAndNeverFurtherThanTheRate) {
  at::Tensor bias = at::zeros({4}, at::kDouble);
  update_bias(bias, at::tensor({6, 4, 2, 4}, at::kLong), 0.1, BiasLaw::kProportional);
  EXPECT_TRUE(at::allclose(bias, at::tensor({-0.05, 0.0, 0.05, 0.0}, at::kDouble)));
  // Loads 16, 0, 0, 0: mean 4. The first misses -3 of it, taken as -1: -0.1 +0.1 +0.1 +0.1, then centred by 0.05.
  bias.zero_();
  update_bias(bias, at::tensor({16, 0, 0, 0}, at::kLong), 0.1, BiasLaw::kProportional);
  EXPECT_TRUE(at::allclose(bias, at::tensor({-0.15, 0.05, 0.05, 0.05}, at::kDouble)));
}

// A mean in float32 would be 1 off.
TEST(LossFreeBias, LeavesABalancedLayerOfManySlotsAlone) {
  for (const BiasLaw law : {BiasLaw::kSign, BiasLaw::kProportional}) {
    at::Tensor bias = at::zeros({3}, at::kFloat);
    update_bias(bias, at::full({3}, (int64_t{1} << 24) + 1, at::kLong), 0.1, law);
    EXPECT_TRUE(at::equal(bias, at::zeros({3}, at::kFloat))) << bias;
    update_bias(bias, at::zeros({3}, at::kLong), 0.1, law);
    EXPECT_TRUE(at::equal(bias, at::zeros({3}, at::kFloat))) << bias;
  }
}

// Slots of experts 0 1 0 0 1 2 with gates .1 .2 .3 .4 .5 .6; at most 2 of expert 0, 1 of expert 1, 0 of expert 2.
TEST(Capacity, KeepsTheLargestGatesOrTheFirstSlots) {
  const at::Tensor bins = at::tensor({0, 1, 0, 0, 1, 2, -1}, at::kInt);
  const at::Tensor gates = at::tensor({0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}, at::kDouble);
  const at::Tensor limits = at::tensor({2, 1, 0}, at::kLong);
  EXPECT_TRUE(at::equal(within_limits(bins, gates, limits), at::tensor({0, 0, 1, 1, 1, 0, 0}, at::kInt).to(at::kBool)));
  EXPECT_TRUE(at::equal(within_limits(bins, {}, limits), at::tensor({1, 1, 1, 0, 0, 0, 0}, at::kInt).to(at::kBool)));
  EXPECT_TRUE(at::equal(places_in_bins(bins, 3), at::tensor({0, 0, 1, 2, 1, 0, -1}, at::kLong)));
}

TEST(Capacity, OfEqualGatesTheFirstStay) {
  const at::Tensor bins = at::zeros({4}, at::kInt);
  EXPECT_TRUE(at::equal(within_limits(bins, at::ones({4}, at::kDouble), at::tensor({2}, at::kLong)),
                        at::tensor({1, 1, 0, 0}, at::kInt).to(at::kBool)));
}

// Four experts on two ranks, groups a = {0, 1} and b = {2, 3}: rank 0 holds 0 and 2, rank 1 holds 1 and 3.
TEST(ExpertPlacement, SpreadsEachGroupOverAllRanks) {
  const std::vector<ExpertGroupConfig> groups = {{.name = "a", .count = 2}, {.name = "b", .count = 2}};
  const ExpertPlacement placement(groups, 2, 1);
  EXPECT_EQ(placement.places(), (std::vector<int64_t>{0, 2, 1, 3}));
  EXPECT_EQ(placement.local(), 2);
  EXPECT_EQ(placement.banks()[1].first_local, 1);
  EXPECT_TRUE(ExpertPlacement({{.name = "", .count = 4}}, 2, 0).places().empty());
}

TEST(MoELayer, RowsOverARanksBudgetAreDroppedAndCounted) {
  MoeConfig config = small(4, 2, true);
  config.rank_budget = 1.0;
  config.rank_overflow = RankOverflow::kDrop;
  const auto mesh = single_mesh(cpu_mesh(), 4);
  LayerFixture fixture(config, 5, *mesh, 3);
  std::optional<RoutingMemo> memo;
  const MoEOutput output = fixture.layer.forward(at::randn({6, 5}, at::kDouble), {0, 6}, memo);
  EXPECT_EQ(output.record.dropped.item<int64_t>(), 0) << "one rank's share at balance is everything";
  EXPECT_EQ(output.record.rows.item<int64_t>(), 12);
}

TEST(MoELayer, ANonFiniteResultIsReplacedCountedAndReachesNoWeight) {
  for (const int64_t fallback : {0, 4}) {
    MoeConfig config = small(4, 2, true);
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

// What memory held before must not become the gradient of a row that stands for no slot.
TEST(MoELayer, PaddedRowsHaveNoGradientWhateverMemoryHeld) {
  MoeConfig config = small(4, 1, false);
  config.capacity_factor = 2.0;
  config.capacity_pad = true;
  const auto mesh = single_mesh(cpu_mesh(), 4);
  LayerFixture fixture(config, 5, *mesh, 3);
  at::manual_seed(4);
  const at::Tensor input = at::randn({8, 5}, at::kDouble).requires_grad_(true);
  std::optional<RoutingMemo> memo;
  const at::Tensor output = fixture.layer.forward(input, alone(input), memo).tokens;
  ASSERT_EQ(memo->plans[0].rows, 16);
  {
    std::vector<at::Tensor> poison;
    for (int i = 0; i < 64; ++i) poison.push_back(at::full({16, 5}, std::numeric_limits<double>::quiet_NaN(), at::kDouble));
  }
  output.sum().backward();
  for (const auto& parameter : fixture.parameters) {
    const at::Tensor& gradient = parameter->value.grad();
    EXPECT_TRUE(!gradient.defined() || at::isfinite(gradient).all().item<bool>()) << parameter->name;
  }
  EXPECT_TRUE(at::isfinite(input.grad()).all().item<bool>());
}

TEST(MoELayer, PaddingCountsInNoStatistic) {
  MoeConfig config = small(4, 2, true);
  config.balance.sequence_loss = 0.1;
  const auto mesh = single_mesh(cpu_mesh(), 4);
  LayerFixture fixture(config, 5, *mesh, 3);
  at::manual_seed(5);
  const at::Tensor input = at::randn({6, 5}, at::kDouble);
  std::optional<RoutingMemo> shorter_memo;
  BatchContext short_context(0, 4);
  short_context.sequence_length = 4;
  const MoEOutput shorter = fixture.layer.forward(input.narrow(0, 0, 4), short_context, shorter_memo);
  std::optional<RoutingMemo> padded;
  BatchContext context(0, 6);
  context.sequence_length = 6;
  context.counted = at::tensor({1, 1, 1, 1, 0, 0}, at::kInt).to(at::kBool);
  const MoEOutput longer = fixture.layer.forward(input, context, padded);
  EXPECT_TRUE(at::equal(shorter.record.load, longer.record.load));
  EXPECT_LT(relative_difference(longer.record.probability_sum, shorter.record.probability_sum), 1e-14);
  EXPECT_NEAR(longer.record.z_sum.item<double>(), shorter.record.z_sum.item<double>(), 1e-12);
  EXPECT_NEAR(longer.record.confidence_sum.item<double>(), shorter.record.confidence_sum.item<double>(), 1e-12);
  EXPECT_NEAR(longer.record.sequence_balance.item<double>(), shorter.record.sequence_balance.item<double>(), 1e-12);
}

// The noise of a token is its own, whoever computes it and in whatever pieces.
TEST(Router, JitterFollowsTheGlobalTokenAndOnlyTrainingHasIt) {
  MoeConfig config = small(6, 2, false);
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
  MoeConfig config = small(4, 2, false);
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
  MoeConfig config = small(6, 2, false);
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

TEST(Balance, TheStepLossKnowsWhatTheStepHasSeen) {
  const auto mesh = single_mesh();
  const auto record = [](std::vector<int64_t> load, std::vector<double> sum) {
    RoutingRecord made;
    made.load = at::tensor(load, at::kLong);
    made.probability_sum = at::tensor(sum, at::kDouble);
    made.z_sum = at::zeros({}, at::kDouble);
    return made;
  };
  // Loads 3 1 now and 1 3 before: over the step 4 4, shares 1/2; 2 * (1/2 * 1.5 + 1/2 * 2.5) / 4 tokens = 1.
  const BalanceConfig config{.switch_loss = 0.0, .step_loss = 0.5, .z_loss = 0.0};
  const BalanceTerms terms =
      balance_terms({record({3, 1}, {1.5, 2.5})}, config, 4, at::tensor({1, 3}, at::kLong).view({1, 2}), mesh->group(Group::kBatch));
  EXPECT_NEAR(terms.loss.item<double>(), 0.5, 1e-15);
  // Without a past: shares 3/4, 1/4; 2 * (3/4 * 1.5 + 1/4 * 2.5) / 4 = 0.875, as the Switch loss and the local one say of one rank.
  EXPECT_NEAR(balance_terms({record({3, 1}, {1.5, 2.5})}, config, 4, {}, mesh->group(Group::kBatch)).loss.item<double>(), 0.4375, 1e-15);
  const BalanceConfig local{.switch_loss = 0.0, .local_loss = 1.0, .z_loss = 0.0};
  EXPECT_NEAR(balance_terms({record({3, 1}, {1.5, 2.5})}, local, 4, {}, mesh->group(Group::kBatch)).loss.item<double>(), 0.875, 1e-15);
}

TEST(LossFreeBias, ItsRateFollowsTheSchedule) {
  BalanceConfig config{.bias_rate = 0.1, .bias_schedule = BiasSchedule::kLinear};
  EXPECT_DOUBLE_EQ(scheduled_bias_rate(config, 0, 10), 0.1);
  EXPECT_DOUBLE_EQ(scheduled_bias_rate(config, 5, 10), 0.05);
  config.bias_schedule = BiasSchedule::kCosine;
  EXPECT_NEAR(scheduled_bias_rate(config, 5, 10), 0.05, 1e-15);
  EXPECT_NEAR(scheduled_bias_rate(config, 10, 10), 0.0, 1e-15);
  config.bias_schedule = BiasSchedule::kConstant;
  EXPECT_DOUBLE_EQ(scheduled_bias_rate(config, 9, 10), 0.1);
}

struct Refusal {
  const char* what;
  void (*change)(MoeConfig&);
  const char* key;
};

TEST(MoeConfig, RefusesWhatDoesNotFitTogether) {
  const Refusal cases[] = {
      {"more choices than experts", [](MoeConfig& config) { config.choices = 9; }, "model.moe.choices"},
      {"groups that do not divide", [](MoeConfig& config) { config.router.groups = 3; }, "model.moe.router.groups"},
      {"groups of a router that has none",
       [](MoeConfig& config) {
         config.router.groups = 2;
         config.router.kind = RouterKind::kUniform;
       },
       "model.moe.router.groups"},
      {"too few experts in the groups of a token",
       [](MoeConfig& config) {
         config.router.groups = 8;
         config.choices = 2;
       },
       "model.moe.choices"},
      {"a skew without a bias", [](MoeConfig& config) { config.router.initial_skew = 1; }, "model.moe.router.initial_skew"},
      {"padding without a capacity", [](MoeConfig& config) { config.capacity_pad = true; }, "model.moe.capacity_pad"},
      {"a budget below a share", [](MoeConfig& config) { config.rank_budget = 0.5; }, "model.moe.rank_budget"},
      {"groups that do not add up", [](MoeConfig& config) { config.groups = {{.name = "a", .count = 3}}; }, "model.moe.experts"},
      {"two groups of one name",
       [](MoeConfig& config) {
         config.groups = {{.name = "a", .count = 4}, {.name = "a", .count = 4}};
       },
       "model.moe.groups[1].name"},
      {"a name that is none", [](MoeConfig& config) { config.groups = {{.name = "a.b", .count = 8}}; }, "model.moe.groups[0].name"},
      {"a capacity of experts that choose",
       [](MoeConfig& config) {
         config.router.kind = RouterKind::kExpertChoice;
         config.capacity_factor = 1;
       },
       "model.moe.capacity_factor"},
  };
  for (const Refusal& refusal : cases) {
    MoeConfig config = small(8, 2, true);
    refusal.change(config);
    Violations violations;
    config.validate("model.moe", violations);
    ASSERT_EQ(violations.lines().size(), 1u) << refusal.what;
    EXPECT_EQ(violations.lines()[0].first, refusal.key) << refusal.what;
  }
}

}  // namespace
}  // namespace pimoe
