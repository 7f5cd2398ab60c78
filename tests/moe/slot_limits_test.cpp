#include "moe/slot_limits.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

// Rank 0 gets four slots of source 0, at 1/8 3/8 5/8 7/8, and two of source 1, at 1/4 3/4: in one order 0 1 0 | 0 1 0, three a round.
// Rank 1 gets one of each, both at 1/2, of which the lower source's is first. The last slot of source 0 goes nowhere.
TEST(SlotLimits, ARoundTakesAnEvenShareOfEachSource) {
  const at::Tensor counts = at::tensor({4, 1, 2, 1}, at::kLong).view({2, 2});
  const at::Tensor first = at::tensor({0, 0, 1, 0, 0, -1}, at::kInt);
  const at::Tensor second = at::tensor({1, 0, 0}, at::kInt);
  EXPECT_TRUE(at::equal(rounds_of_slots(first, counts, 0, 3), at::tensor({0, 0, 0, 1, 1, -1}, at::kLong)));
  EXPECT_TRUE(at::equal(rounds_of_slots(second, counts, 1, 3), at::tensor({0, 0, 1}, at::kLong)));
  EXPECT_TRUE(at::equal(rounds_of_slots(first, counts, 0, 1), at::tensor({0, 2, 0, 3, 5, -1}, at::kLong)));
  EXPECT_TRUE(at::equal(rounds_of_slots(second, counts, 1, 1), at::tensor({1, 1, 4}, at::kLong)));
}

// Experts 0 1 of group a and 2 3 of group b on two ranks: rank 0 holds 0 and 2.
TEST(ExpertPlacement, KnowsThePlaceAndTheRankOfEverySlot) {
  const at::Tensor experts = at::tensor({0, 1, 2, 3, -1, 2}, at::kInt).view({3, 2});
  const ExpertPlacement typed({{.name = "a", .count = 2}, {.name = "b", .count = 2}}, 2, 1);
  EXPECT_TRUE(at::equal(typed.places_of(experts), at::tensor({0, 2, 1, 3, -1, 1}, at::kInt).view({3, 2})));
  EXPECT_TRUE(at::equal(typed.ranks_of(experts), at::tensor({0, 1, 0, 1, -1, 0}, at::kInt).view({3, 2})));
  const ExpertPlacement alike({{.name = "", .count = 4}}, 2, 1);
  EXPECT_TRUE(at::equal(alike.places_of(experts), experts));
  EXPECT_TRUE(at::equal(alike.ranks_of(experts), at::tensor({0, 0, 1, 1, -1, 1}, at::kInt).view({3, 2})));
}

}  // namespace
}  // namespace pimoe
