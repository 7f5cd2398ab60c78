#include "moe/layout_dependence.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

TEST(LayoutDependence, EachKeyThatCountsARanksTokensIsTurnedOffWithItsName) {
  MoeConfig moe;
  EXPECT_FALSE(changes_with_layout(moe));
  moe.capacity_factor = 1.25;
  moe.rank_budget = 1.0;
  moe.rank_overflow = RankOverflow::kDrop;
  moe.balance.local_loss = 0.1;
  EXPECT_TRUE(changes_with_layout(moe));
  const std::vector<std::string> notes = leave_out_what_layouts_change(moe);
  ASSERT_EQ(notes.size(), 3u);
  EXPECT_NE(notes[0].find("capacity_factor"), std::string::npos);
  EXPECT_NE(notes[1].find("rank_overflow"), std::string::npos);
  EXPECT_NE(notes[2].find("local_loss"), std::string::npos);
  EXPECT_FALSE(changes_with_layout(moe));
  EXPECT_EQ(moe.rank_budget, 1.0) << "chunks give every layout the same sums";
}

}  // namespace
}  // namespace pimoe
