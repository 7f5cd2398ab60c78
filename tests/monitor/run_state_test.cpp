#include "monitor/run_state.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pimoe {
namespace {

RunState of(const std::string& last_event, bool has_records, double step_seconds, double silence) {
  return run_state({.last_event = last_event, .has_records = has_records, .step_seconds = step_seconds, .silence = silence});
}

TEST(RunStateTest, IsSilentAfterAMinuteOrTenStepsWhicheverIsLonger) {
  EXPECT_EQ(of("saved", true, 0.5, 60.0), RunState::kRunning);
  EXPECT_EQ(of("saved", true, 0.5, 60.1), RunState::kSilent);
  EXPECT_EQ(of("saved", true, 9.0, 90.0), RunState::kRunning);
  EXPECT_EQ(of("saved", true, 9.0, 90.1), RunState::kSilent);
  EXPECT_EQ(of("start", true, std::nan(""), 61.0), RunState::kSilent) << "a step's time is not known";
}

TEST(RunStateTest, AnEndThatTheRunTellsOfIsNoSilence) {
  EXPECT_EQ(of("stopped", true, 0.5, 1e6), RunState::kStopped);
  EXPECT_EQ(of("complete", true, 0.5, 1e6), RunState::kComplete);
  EXPECT_EQ(of("resume", true, 0.5, 1.0), RunState::kRunning) << "it goes on";
}

TEST(RunStateTest, IsEmptyUntilAStepIsRecorded) {
  EXPECT_EQ(of("", false, std::nan(""), 0.0), RunState::kEmpty);
  EXPECT_EQ(of("start", false, std::nan(""), 1e6), RunState::kEmpty);
}

}  // namespace
}  // namespace pimoe
