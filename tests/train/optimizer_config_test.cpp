#include "train/optimizer_config.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

OptimizerConfig schedule(Schedule which) {
  OptimizerConfig config;
  config.learning_rate = 1.0;
  config.warmup_steps = 4;
  config.final_ratio = 0.1;
  config.schedule = which;
  return config;
}

TEST(LearningRate, WarmsUpInALineThatEndsAtThePeak) {
  const OptimizerConfig config = schedule(Schedule::kConstant);
  EXPECT_DOUBLE_EQ(learning_rate_at(0, 100, config), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate_at(3, 100, config), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(99, 100, config), 1.0);
}

// Steps 4 to 10 of 11: the middle, step 7, is half-way in every shape.
TEST(LearningRate, FallsToTheFinalRatioAtTheLastStep) {
  for (const Schedule which : {Schedule::kCosine, Schedule::kLinear}) {
    EXPECT_DOUBLE_EQ(learning_rate_at(4, 11, schedule(which)), 1.0);
    EXPECT_NEAR(learning_rate_at(7, 11, schedule(which)), 0.55, 1e-12);
    EXPECT_NEAR(learning_rate_at(10, 11, schedule(which)), 0.1, 1e-12);
  }
  EXPECT_GT(learning_rate_at(5, 11, schedule(Schedule::kCosine)), learning_rate_at(5, 11, schedule(Schedule::kLinear)));
}

// 100 steps, the last 20 % fall: step 79 is the last at the peak, step 99 the end.
TEST(LearningRate, StaysStableAndThenDecays) {
  OptimizerConfig config = schedule(Schedule::kWarmupStableDecay);
  config.decay_share = 0.2;
  EXPECT_DOUBLE_EQ(learning_rate_at(79, 100, config), 1.0);
  EXPECT_NEAR(learning_rate_at(89, 100, config), 0.55, 1e-12);
  EXPECT_NEAR(learning_rate_at(99, 100, config), 0.1, 1e-12);
}

TEST(LearningRate, ADecayThatWouldBeginInTheWarmUpBeginsAfterIt) {
  OptimizerConfig config = schedule(Schedule::kWarmupStableDecay);
  config.decay_share = 1.0;
  EXPECT_DOUBLE_EQ(learning_rate_at(4, 11, config), 1.0);
  EXPECT_NEAR(learning_rate_at(7, 11, config), 0.55, 1e-12);
  EXPECT_NEAR(learning_rate_at(10, 11, config), 0.1, 1e-12);
}

TEST(LearningRate, NoWarmUpAndASingleStepAreOrdinary) {
  OptimizerConfig config = schedule(Schedule::kCosine);
  config.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate_at(0, 1, config), 1.0);
}

}  // namespace
}  // namespace pimoe
