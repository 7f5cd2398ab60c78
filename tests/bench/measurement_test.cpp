#include "bench/measurement.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

TEST(SpreadOf, IsMedianAndTheBordersOfTheMiddleEightTenths) {
  const Spread eleven = spread_of({11, 1, 10, 2, 9, 3, 8, 4, 7, 5, 6});
  EXPECT_DOUBLE_EQ(eleven.median, 6);
  EXPECT_DOUBLE_EQ(eleven.low, 2);
  EXPECT_DOUBLE_EQ(eleven.high, 10);
  EXPECT_EQ(eleven.repetitions, 11);
  const Spread two = spread_of({3, 1});
  EXPECT_DOUBLE_EQ(two.median, 2);
  EXPECT_DOUBLE_EQ(two.low, 1.2);
  EXPECT_DOUBLE_EQ(two.high, 2.8);
}

TEST(SpreadOf, OneSampleIsAllOfIt) {
  const Spread one = spread_of({0.25});
  EXPECT_EQ(one.median, 0.25);
  EXPECT_EQ(one.low, 0.25);
  EXPECT_EQ(one.high, 0.25);
}

TEST(SpreadOf, OneSlowRepetitionMovesNoMedian) { EXPECT_EQ(spread_of({1, 1, 1, 1, 100}).median, 1); }

TEST(RepetitionsFor, FillTheTimeWithinTheirBounds) {
  const Effort effort{.seconds = 1.0, .warm_ups = 1, .least = 5, .most = 200};
  EXPECT_EQ(repetitions_for(0.1, effort), 10);
  EXPECT_EQ(repetitions_for(0.3, effort), 5) << "no fewer than the least";
  EXPECT_EQ(repetitions_for(1000, effort), 5);
  EXPECT_EQ(repetitions_for(1e-6, effort), 200) << "no more than the most";
  EXPECT_EQ(repetitions_for(0, effort), 200) << "a clock that saw nothing pass";
}

}  // namespace
}  // namespace pimoe
