#include "bench/gpu_timeline.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

TEST(GpuTimeline, CountsOverlapOnceAndGapsAsIdle) {
  // 0..10 and 5..20 overlap, one lies inside, 20..30 is idle, 30..40 runs.
  const auto timeline = timeline_of({{"b", 30, 40}, {"a", 0, 10}, {"b", 5, 20}, {"a", 6, 8}});
  ASSERT_TRUE(timeline);
  EXPECT_DOUBLE_EQ(timeline->seconds, 40e-9);
  EXPECT_DOUBLE_EQ(timeline->busy_seconds, 30e-9);
  EXPECT_DOUBLE_EQ(timeline->busy_share(), 0.75);
  EXPECT_EQ(timeline->count(), 4);
  ASSERT_EQ(timeline->kernels.size(), 2U);
  EXPECT_EQ(timeline->kernels[0].name, "b");
  EXPECT_DOUBLE_EQ(timeline->kernels[0].seconds, 25e-9);
  EXPECT_EQ(timeline->kernels[1].count, 2);
}

TEST(GpuTimeline, IsNothingWithoutEventsOrWithoutAGpu) {
  EXPECT_FALSE(timeline_of({}));
  bool ran = false;
  EXPECT_FALSE(record_gpu(c10::kCPU, [&] { ran = true; }));
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace pimoe
