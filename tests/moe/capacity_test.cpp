#include "moe/capacity.h"

#include "base/errors.h"
#include "moe/expert_placement.h"

#include <gtest/gtest.h>

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

TEST(Placement, SaysWhatCanBeSpreadBeforeItDivides) {
  EXPECT_EQ(spread_trouble(64, 8), "");
  EXPECT_EQ(spread_trouble(60, 8),
            "(60) must be divisible by mesh.expert_parallel (8). Nearest that works: 56 or 64, or expert_parallel "
            "1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60");
  EXPECT_EQ(spread_trouble(4, 8), "(4) must be divisible by mesh.expert_parallel (8). Nearest that works: 8, or expert_parallel 1, 2, 4");
  EXPECT_THROW(ExpertPlacement({{.name = "few", .count = 1}, {.name = "many", .count = 4}}, 2, 0), ConfigError);
}

}  // namespace
}  // namespace pimoe
