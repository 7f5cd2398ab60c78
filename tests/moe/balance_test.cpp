#include "moe/balance.h"

#include "moe/layer_fixture.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

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

TEST(MoELayer, PaddingCountsInNoStatistic) {
  MoeConfig config = small_moe(4, 2, true);
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

}  // namespace
}  // namespace pimoe
