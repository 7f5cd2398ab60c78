#include "ops/top_k.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace pimoe::checks {
namespace top_k_tests {

using Integers = std::vector<int64_t>;

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

}  // namespace top_k_tests
}  // namespace pimoe::checks
