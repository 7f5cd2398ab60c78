#include "train/divergence.h"

#include <gtest/gtest.h>

#include <limits>

namespace pimoe {
namespace {

constexpr double kLoss = 2.5;
constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

Divergence after(int64_t bad_steps, double loss, bool scale_can_fall = false) {
  Divergence divergence;
  for (int64_t step = 0; step < bad_steps; ++step) divergence.observe(StepOutcome::kNotFinite, loss, scale_can_fall);
  return divergence;
}

TEST(Divergence, ARunThatTakesItsStepsSavesAndGoesOn) {
  Divergence divergence;
  EXPECT_TRUE(divergence.may_save_when_due());
  divergence.observe(StepOutcome::kTaken, kLoss, false);
  EXPECT_EQ(divergence.bad_in_a_row(), 0);
  EXPECT_TRUE(divergence.may_save());
  EXPECT_TRUE(divergence.may_save_when_due());
  EXPECT_FALSE(divergence.is_hopeless());
}

TEST(Divergence, GradientsAloneLeaveTheWeightsWorthSaving) {
  EXPECT_TRUE(after(1, kLoss).may_save());
  EXPECT_FALSE(after(1, kLoss).may_save_when_due()) << "the next step knows better";
  EXPECT_TRUE(after(9, kLoss).may_save());
  EXPECT_TRUE(after(1, kLoss).ends_well());
  EXPECT_FALSE(after(2, kLoss).ends_well()) << "norms may hide from the loss what has become of the weights";
  EXPECT_FALSE(after(9, kLoss).is_hopeless());
  EXPECT_TRUE(after(10, kLoss).is_hopeless());
}

TEST(Divergence, WhileFloat16sScaleCanFallSkipsAreNoDivergence) {
  EXPECT_FALSE(after(15, kLoss, /*scale_can_fall=*/true).is_hopeless());
  EXPECT_TRUE(after(15, kLoss, /*scale_can_fall=*/true).may_save());
  EXPECT_TRUE(after(15, kLoss, /*scale_can_fall=*/true).ends_well());
  EXPECT_TRUE(after(1, kLoss, /*scale_can_fall=*/true).may_save_when_due());
  EXPECT_FALSE(after(2, kLoss, /*scale_can_fall=*/true).may_save_when_due()) << "the same weights again would push out older ones";
  EXPECT_TRUE(after(10, kNotANumber, /*scale_can_fall=*/true).is_hopeless()) << "no scale mends spoiled weights";
}

TEST(Divergence, ALossThatIsNotFiniteSavesNothing) {
  EXPECT_FALSE(after(1, kNotANumber, /*scale_can_fall=*/true).may_save());
  EXPECT_FALSE(after(1, kNotANumber).may_save_when_due());
  EXPECT_FALSE(after(1, kNotANumber).ends_well());
  Divergence divergence;
  divergence.observe(StepOutcome::kTaken, std::numeric_limits<double>::infinity(), false);
  EXPECT_EQ(divergence.bad_in_a_row(), 1) << "even if its gradients were finite";
  EXPECT_FALSE(divergence.may_save());
}

TEST(Divergence, AStepThatIsTakenForgivesAllBeforeIt) {
  Divergence divergence = after(9, kNotANumber);
  divergence.observe(StepOutcome::kTaken, kLoss, false);
  EXPECT_EQ(divergence.bad_in_a_row(), 0);
  EXPECT_TRUE(divergence.may_save_when_due());
}

TEST(Divergence, TenSkippedStepsAreTenWhateverTheReason) {
  Divergence divergence = after(5, kLoss, /*scale_can_fall=*/true);
  for (int step = 0; step < 4; ++step) divergence.observe(StepOutcome::kSpike, kLoss, true);
  EXPECT_EQ(divergence.bad_in_a_row(), 0) << "the weights are good";
  EXPECT_TRUE(divergence.may_save());
  EXPECT_TRUE(divergence.ends_well());
  EXPECT_FALSE(divergence.is_hopeless());
  divergence.observe(StepOutcome::kSpike, kLoss, true);
  EXPECT_EQ(divergence.skipped_in_a_row(), 10);
  EXPECT_TRUE(divergence.is_hopeless()) << "no scale ends spikes";
  EXPECT_FALSE(divergence.ends_well());
}

TEST(Divergence, NoSkippedStepIsSavedWhenDue) {
  for (const bool scale_can_fall : {false, true}) {
    Divergence divergence;
    divergence.observe(StepOutcome::kSpike, kLoss, scale_can_fall);
    EXPECT_FALSE(divergence.may_save_when_due()) << "a spike";
    divergence.observe(StepOutcome::kNotFinite, kLoss, scale_can_fall);
    EXPECT_FALSE(divergence.may_save_when_due()) << "the first that is not finite, but the second that was skipped";
  }
}

TEST(Divergence, AResumedRunCountsOn) {
  for (const StepOutcome outcome : {StepOutcome::kNotFinite, StepOutcome::kSpike}) {
    Divergence divergence;
    divergence.resume(/*bad_in_a_row=*/0, /*skipped_in_a_row=*/9);
    EXPECT_TRUE(divergence.may_save());
    EXPECT_FALSE(divergence.may_save_when_due());
    divergence.observe(outcome, kLoss, /*scale_can_fall=*/true);
    EXPECT_TRUE(divergence.is_hopeless());
  }
}

}  // namespace
}  // namespace pimoe
