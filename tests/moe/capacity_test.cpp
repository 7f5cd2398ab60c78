#include "moe/capacity.h"

#include "moe/layer_fixture.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <limits>

namespace pimoe {
namespace {

TEST(Capacity, RoundsUpWhatIsAboveAndNotWhatBinaryFractionsAdd) {
  EXPECT_EQ(rounded_up(100 * 1.1), 110);
  EXPECT_EQ(rounded_up(1000 * 1.1), 1100);
  EXPECT_EQ(rounded_up(30 * 1.2), 36);
  EXPECT_EQ(rounded_up(10 * 1.25), 13);
  EXPECT_EQ(rounded_up(1e6 * 1.000001), 1'000'001);
  EXPECT_EQ(rounded_up(110.001), 111);
  EXPECT_EQ(rounded_up(0.0), 0);
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

TEST(MoELayer, RowsOverARanksBudgetAreDroppedAndCounted) {
  MoeConfig config = small_moe(4, 2, true);
  config.rank_budget = 1.0;
  config.rank_overflow = RankOverflow::kDrop;
  const auto mesh = single_mesh(cpu_mesh(), 4);
  LayerFixture fixture(config, 5, *mesh, 3);
  std::optional<RoutingMemo> memo;
  const MoEOutput output = fixture.layer.forward(at::randn({6, 5}, at::kDouble), {0, 6}, memo);
  EXPECT_EQ(output.record.dropped.item<int64_t>(), 0) << "one rank's share at balance is everything";
  EXPECT_EQ(output.record.rows.item<int64_t>(), 12);
}

// What memory held before must not become the gradient of a row that stands for no slot.
TEST(MoELayer, PaddedRowsHaveNoGradientWhateverMemoryHeld) {
  MoeConfig config = small_moe(4, 1, false);
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

}  // namespace
}  // namespace pimoe
