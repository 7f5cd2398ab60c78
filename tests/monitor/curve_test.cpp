#include "monitor/curve.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace pimoe {
namespace {

std::string text_of(const Curve& curve) {
  std::string text;
  for (const Curve::Point& point : curve.points()) {
    text += std::to_string(point.step) + ":" + (std::isnan(point.value) ? "nan" : std::to_string(static_cast<int>(point.value))) + " ";
  }
  return text;
}

TEST(Curve, KeepsEveryValueOfUpToTwoStepsAStretch) {
  Curve curve(1, 6, 3);
  for (const int value : {5, 4, 7, 7, 1, 2}) curve.add(static_cast<int64_t>(curve.points().size()) + 1, value);
  EXPECT_EQ(curve.stretch(), 2);
  EXPECT_EQ(text_of(curve), "1:5 2:4 3:7 4:7 5:1 6:2 ");
}

// Steps 1 to 9 in three stretches of three.
TEST(Curve, KeepsTheSmallestAndTheLargestOfAStretchAtTheirSteps) {
  Curve curve(1, 9, 3);
  const std::vector<double> values = {3, 90, 2, 4, 5, 6, 1, 1, -7};
  for (size_t at = 0; at < values.size(); ++at) curve.add(static_cast<int64_t>(at) + 1, values[at]);
  EXPECT_EQ(text_of(curve), "2:90 3:2 4:4 6:6 8:1 9:-7 ");
  ASSERT_EQ(curve.means().size(), 3u);
  EXPECT_EQ(curve.means()[1].step, 5);
  EXPECT_EQ(curve.means()[1].value, 5.0);
}

TEST(Curve, HasAGapWhereAStretchHasNoNumberAndGrowsBehindTheExpectedEnd) {
  Curve curve(1, 3, 3);
  curve.add(1, 4);
  curve.add(2, std::nan(""));
  curve.add(3, 5);
  curve.add(8, 6);
  EXPECT_EQ(text_of(curve), "1:4 2:nan 3:5 8:6 ");
}

TEST(RowGrid, SumsCountsAndKeepsTheMostOfEachCell) {
  RowGrid grid(10, 13, 2, 2);
  grid.add(10, {1, 5});
  grid.add(11, {2, std::nan("")});
  grid.add(13, {7, 0});
  ASSERT_EQ(grid.columns(), 2u);
  EXPECT_EQ(grid.sum(0, 0), 3);
  EXPECT_EQ(grid.sum(0, 1), 5);
  EXPECT_EQ(grid.count(0, 1), 1);
  EXPECT_EQ(grid.most(0, 0), 2);
  EXPECT_EQ(grid.sum(1, 0), 7);
  EXPECT_EQ(grid.most(1, 1), 0);
}

}  // namespace
}  // namespace pimoe
