#include "train/possible_state.h"

#include "base/errors.h"
#include "checkpoint/training_state.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace pimoe {
namespace {

Snapshot possible() {
  Snapshot saved;
  saved.step = 100;
  saved.numbers = {{state_number::kLossScale, 65536.0}, {"spikes.loss.mean", -1.0}, {"spikes.loss.variance", 0.0}};
  saved.counters = {{state_counter::kNextSample, int64_t{1} << 60}, {state_counter::kTokensSeen, 0},
                    {state_counter::kOptimizerSteps, 100},          {state_counter::kSkippedInARow, 3},
                    {state_counter::kNotFiniteInARow, 0},           {state_counter::kLossScaleDynamic, 1},
                    {state_counter::kLossScaleGoodSteps, 1999}};
  return saved;
}

TEST(PossibleState, WhatARunCanHaveIsTakenAndWhatNoneCanHaveIsNamedWithItsRule) {
  EXPECT_NO_THROW(require_possible(possible(), "runs/a/checkpoints/step-00000100"));
  struct Case {
    std::function<void(Snapshot&)> change;
    const char* said;
  };
  const auto counter = [](const char* key, int64_t value) { return [=](Snapshot& saved) { saved.counters[key] = value; }; };
  const auto number = [](const char* key, double value) { return [=](Snapshot& saved) { saved.numbers[key] = value; }; };
  const Case cases[] = {
      {[](Snapshot& saved) { saved.step = int64_t{1} << 60; }, "step (1152921504606846976) must be in [0, 1,000,000,000,000]"},
      {counter(state_counter::kNextSample, INT64_MAX),
       "counters.next_sample (9223372036854775807) must be in [0, 1,152,921,504,606,846,976]"},
      {counter(state_counter::kNextSample, -1), "counters.next_sample (-1)"},
      {counter(state_counter::kTokensSeen, INT64_MAX), "counters.tokens_seen (9223372036854775807)"},
      {counter(state_counter::kOptimizerSteps, 101), "counters.optimizer_steps (101) must be in [0, 100], up to its step"},
      {counter(state_counter::kSkippedInARow, INT64_MAX), "counters.skipped_in_a_row"},
      {counter(state_counter::kNotFiniteInARow, -1), "counters.not_finite_in_a_row (-1)"},
      {counter(state_counter::kLossScaleDynamic, 2), "counters.loss_scale_dynamic (2) must be in [0, 1]"},
      {counter(state_counter::kLossScaleGoodSteps, 2000), "counters.loss_scale_good_steps (2000) must be in [0, 1,999]"},
      {number(state_number::kLossScale, 0.0), "numbers.loss_scale (0) must be finite and above 0"},
      {number(state_number::kLossScale, std::numeric_limits<double>::infinity()), "numbers.loss_scale (inf)"},
      {number("spikes.norm.mean", std::numeric_limits<double>::quiet_NaN()), "numbers.spikes.norm.mean (nan) must be finite"},
      {number("spikes.norm.count", -1.0), "numbers.spikes.norm.count (-1) must be at least 0"},
  };
  for (const Case& each : cases) {
    Snapshot saved = possible();
    each.change(saved);
    try {
      require_possible(saved, "runs/a/checkpoints/step-00000100");
      ADD_FAILURE() << each.said;
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find(each.said), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("runs/a/checkpoints/step-00000100"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace pimoe
