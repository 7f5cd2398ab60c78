#include "train/loss_scaler.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

TEST(LossScaler, HalvesOnOverflowAndDoublesAfterEnoughGoodSteps) {
  LossScaler scaler = LossScaler::for_float16();
  scaler.update(false);
  EXPECT_EQ(scaler.scale, 32768.0);
  for (int64_t step = 0; step < LossScaler::kGrowthInterval; ++step) scaler.update(true);
  EXPECT_EQ(scaler.scale, 65536.0);
}

TEST(LossScaler, AnOverflowStartsTheCountAgain) {
  LossScaler scaler = LossScaler::for_float16();
  for (int64_t step = 0; step + 1 < LossScaler::kGrowthInterval; ++step) scaler.update(true);
  scaler.update(false);
  scaler.update(true);
  EXPECT_EQ(scaler.scale, 32768.0);
}

TEST(LossScaler, StaysAtOneWhereNothingIsScaled) {
  LossScaler scaler;
  scaler.update(false);
  EXPECT_EQ(scaler.scale, 1.0);
}

}  // namespace
}  // namespace pimoe
