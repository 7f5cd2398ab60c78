#include "ops/slot_order.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace pimoe::checks {
namespace slot_order_tests {

using Integers = std::vector<int64_t>;

// Three tokens, two choices each, three experts. Slots in token order: 2 0 | 1 0 | 0 2
TEST(SlotOrder, SortsSlotsByExpertAndKeepsTokenOrderInside) {
  const SlotOrder order = order_by_expert(int_tensor({2, 0, 1, 0, 0, 2}), /*expert_count=*/3);
  EXPECT_EQ(int_values(order.slots), (Integers{1, 3, 4, 2, 0, 5}));
  EXPECT_EQ(int_values(order.positions), (Integers{4, 0, 3, 1, 2, 5}));
  EXPECT_EQ(int_values(order.counts), (Integers{3, 1, 2}));
  EXPECT_EQ(order.counts.scalar_type(), at::kLong);
}

// The second and the last slot go nowhere.
TEST(SlotOrder, SlotsOfNoExpertHaveNoPlace) {
  const SlotOrder order = order_by_expert(int_tensor({2, -1, 1, 0, 0, -1}), /*expert_count=*/3);
  EXPECT_EQ(int_values(order.slots), (Integers{3, 4, 2, 0, 0, 0}));
  EXPECT_EQ(int_values(order.positions), (Integers{3, -1, 2, 0, 1, -1}));
  EXPECT_EQ(int_values(order.counts), (Integers{2, 1, 1}));
}

TEST(SlotOrder, IsAStableSortAtAnySize) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const auto& [slots, experts] : {std::pair<int, int>{0, 4}, {1, 1}, {5, 7}, {511, 3}, {512, 8}, {513, 8}, {3000, 300}, {5000, 600}}) {
    SCOPED_TRACE(concat("slots ", slots, " experts ", experts));
    // One expert in five is never chosen.
    std::vector<int32_t> chosen = random.integers(slots, 0, experts);
    for (int32_t& expert : chosen) expert = expert % 5 == 4 ? expert - 1 : expert;
    Integers sorted(chosen.size());
    std::iota(sorted.begin(), sorted.end(), 0);
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](int64_t a, int64_t b) { return chosen[static_cast<size_t>(a)] < chosen[static_cast<size_t>(b)]; });
    Integers positions(chosen.size()), counts(static_cast<size_t>(experts), 0);
    for (size_t place = 0; place < sorted.size(); ++place) positions[static_cast<size_t>(sorted[place])] = static_cast<int64_t>(place);
    for (const int32_t expert : chosen) ++counts[static_cast<size_t>(expert)];

    const SlotOrder order = order_by_expert(int_tensor(chosen), experts);
    EXPECT_EQ(int_values(order.slots), sorted);
    EXPECT_EQ(int_values(order.positions), positions);
    EXPECT_EQ(int_values(order.counts), counts);
  }
}

at::Tensor scores(const std::vector<double>& values, int64_t columns, at::ScalarType dtype = at::kFloat) {
  return on_device(at::tensor(values, at::kDouble).view({-1, columns}), dtype);
}

TEST(TopK, TakesTheLargestFirstAndTheLowerIndexOfEquals) {
  EXPECT_EQ(int_values(top_k(scores({1, 3, 3, 2, 3}, 5), 4)), (Integers{1, 2, 4, 3}));
  EXPECT_EQ(int_values(top_k(scores({0, 0, 0, 0}, 4), 4)), (Integers{0, 1, 2, 3}));
  EXPECT_EQ(int_values(top_k(scores({-0.0, 0.0}, 2), 2)), (Integers{0, 1}));
  EXPECT_EQ(top_k(scores({1, 2}, 2), 1).scalar_type(), at::kInt);
}

TEST(TopK, CountsNanAsLessThanEveryNumber) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(int_values(top_k(scores({kNan, -kInfinity, kNan, kInfinity, -1}, 5), 5)), (Integers{3, 4, 1, 0, 2}));
  EXPECT_EQ(int_values(top_k(scores({kNan, kNan, kNan}, 3), 2)), (Integers{0, 1}));
}

TEST(TopK, IsTheHeadOfAStableSortAtAnySize) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    for (const auto& [experts, k] : {std::pair<int, int>{1, 1}, {8, 2}, {31, 31}, {64, 8}, {130, 6}, {512, 22}, {600, 600}}) {
      SCOPED_TRACE(concat(dtype, " experts ", experts, " k ", k));
      const int64_t tokens = 37;
      // Few distinct values, so that ties are many.
      const std::vector<int32_t> drawn = random.integers(tokens * experts, 0, 20);
      const at::Tensor table = scores({drawn.begin(), drawn.end()}, experts, dtype);
      Integers expected;
      for (int64_t token = 0; token < tokens; ++token) {
        const int32_t* row = drawn.data() + token * experts;
        Integers order(static_cast<size_t>(experts));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return row[a] > row[b]; });
        expected.insert(expected.end(), order.begin(), order.begin() + k);
      }
      EXPECT_EQ(int_values(top_k(table, k)), expected);
    }
  }
}

TEST(TopK, NoTokensGiveNoChoices) { EXPECT_EQ(top_k(scores({}, 4), 2).sizes(), (Integers{0, 2})); }

TEST(TopK, RefusesMoreChoicesThanExperts) {
  EXPECT_THROW(top_k(scores({1, 2}, 2), 3), ShapeError);
  EXPECT_THROW(top_k(scores({1, 2}, 2), 0), ShapeError);
  EXPECT_THROW(top_k(scores({1, 2}, 2, at::kBFloat16), 1), ShapeError);
}

}  // namespace slot_order_tests
}  // namespace pimoe::checks
