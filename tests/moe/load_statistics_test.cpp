#include "moe/load_statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pimoe {
namespace {

// Loads 10 6 0 0: mean 4, the largest 6 above it; two experts share the slots 5 to 3.
TEST(LoadStatistics, FollowTheirDefinitions) {
  const std::vector<int64_t> load = {10, 6, 0, 0};
  EXPECT_DOUBLE_EQ(maxvio(load), 1.5);
  EXPECT_NEAR(load_entropy(load), -(0.625 * std::log(0.625) + 0.375 * std::log(0.375)) / std::log(4.0), 1e-15);
  EXPECT_EQ(idle_experts(load), 2);
  EXPECT_EQ(idle_experts({1, 0, 2}), 1) << "one slot is not none";
}

// All tokens on the same two of four experts: H = ln 2.
TEST(LoadStatistics, EntropyIsAtItsLeastWhereAllTokensTakeTheSameExperts) {
  EXPECT_NEAR(entropy_above_least(load_entropy({8, 8, 0, 0}), 4, 2), 0.0, 1e-15);
  EXPECT_NEAR(entropy_above_least(load_entropy({4, 4, 4, 4}), 4, 2), 1.0, 1e-15);
  EXPECT_NEAR(entropy_above_least(0.75, 4, 2), 0.5, 1e-15);
  EXPECT_NEAR(entropy_above_least(0.3, 8, 1), 0.3, 1e-15);
  EXPECT_EQ(entropy_above_least(1.0, 4, 4), 1.0);
}

TEST(LoadStatistics, KnowBalanceAndNothing) {
  EXPECT_EQ(maxvio(std::vector<int64_t>{3, 3, 3}), 0.0);
  EXPECT_NEAR(load_entropy({3, 3, 3}), 1.0, 1e-15);
  EXPECT_EQ(load_entropy({5}), 1.0);
  EXPECT_EQ(load_entropy({0, 9}), 0.0);
  EXPECT_EQ(maxvio(std::vector<double>{0, 0}), 0.0);
  EXPECT_EQ(load_entropy({0, 0}), 0.0);
}

}  // namespace
}  // namespace pimoe
