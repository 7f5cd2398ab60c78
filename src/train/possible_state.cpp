#include "train/possible_state.h"

#include "base/config_fields.h"
#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/training_state.h"
#include "train/loss_scaler.h"
#include "train/spikes.h"

#include <cmath>

namespace pimoe {
namespace {

/// Of sequences and tokens: more than any run reads, and far enough from the end of 64 bits to count on.
constexpr int64_t kMostCounted = int64_t{1} << 60;

}  // namespace

void require_possible(const Snapshot& saved, const std::string& checkpoint) {
  const auto refuse = [&](const std::string& what, const auto& value, const auto&... rule) {
    throw CheckpointError(concat("checkpoint ", checkpoint, ": ", what, " (", value, ") must be ", rule...,
                                 ": no run was in this state. Go on from another one"));
  };
  const auto require_count = [&](const char* key, int64_t most, const std::string& why) {
    const auto found = saved.counters.find(key);
    if (found == saved.counters.end() || (found->second >= 0 && found->second <= most)) return;
    refuse(concat("counters.", key), found->second, "in [0, ", grouped(most), "]", why);
  };
  constexpr auto kLastStep = static_cast<int64_t>(kMostSteps);
  if (saved.step < 0 || saved.step > kLastStep) refuse("step", saved.step, "in [0, ", grouped(kLastStep), "]");
  require_count(state_counter::kNextSample, kMostCounted, "");
  require_count(state_counter::kTokensSeen, kMostCounted, "");
  require_count(state_counter::kOptimizerSteps, saved.step, ", up to its step");
  require_count(state_counter::kSkippedInARow, saved.step, ", up to its step");
  require_count(state_counter::kNotFiniteInARow, saved.step, ", up to its step");
  require_count(state_counter::kLossScaleDynamic, 1, "");
  require_count(state_counter::kLossScaleGoodSteps, LossScaler::kGrowthInterval - 1, "");
  for (const auto& [key, value] : saved.numbers) {
    if (key == state_number::kLossScale && !(std::isfinite(value) && value > 0))
      refuse(concat("numbers.", key), value, "finite and above 0");
    if (!SpikeWatch::is_state(key)) continue;
    if (!std::isfinite(value)) refuse(concat("numbers.", key), value, "finite");
    if (value < 0 && !key.ends_with(".mean")) refuse(concat("numbers.", key), value, "at least 0");
  }
}

}  // namespace pimoe
