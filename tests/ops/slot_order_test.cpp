#include "ops/slot_order.h"

#include "ops/op_checks.h"

#include <algorithm>
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

}  // namespace slot_order_tests
}  // namespace pimoe::checks
