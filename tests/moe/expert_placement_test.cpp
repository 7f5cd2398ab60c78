#include "moe/expert_placement.h"

#include "base/errors.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

// Four experts on two ranks, groups a = {0, 1} and b = {2, 3}: rank 0 holds 0 and 2, rank 1 holds 1 and 3.
TEST(ExpertPlacement, SpreadsEachGroupOverAllRanks) {
  const std::vector<ExpertGroupConfig> groups = {{.name = "a", .count = 2}, {.name = "b", .count = 2}};
  const ExpertPlacement placement(groups, 2, 1);
  EXPECT_EQ(placement.places(), (std::vector<int64_t>{0, 2, 1, 3}));
  EXPECT_EQ(placement.local(), 2);
  EXPECT_EQ(placement.banks()[1].first_local, 1);
  EXPECT_TRUE(ExpertPlacement({{.name = "", .count = 4}}, 2, 0).places().empty());
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
