#include "monitor/run_state.h"

#include "train/run_events.h"

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

constexpr double kSecondsOfSilence = 60.0;
constexpr double kStepsOfSilence = 10.0;

}  // namespace

RunState run_state(const RunSigns& signs) {
  if (signs.last_event == run_event::kComplete) return RunState::kComplete;
  if (signs.last_event == run_event::kStopped || signs.last_event == run_event::kStoppedByAlert) return RunState::kStopped;
  if (!signs.has_records) return RunState::kEmpty;
  const double allowed = std::max(kSecondsOfSilence, std::isfinite(signs.step_seconds) ? kStepsOfSilence * signs.step_seconds : 0.0);
  return signs.silence > allowed ? RunState::kSilent : RunState::kRunning;
}

const char* state_word(RunState state) {
  switch (state) {
    case RunState::kEmpty: return "empty";
    case RunState::kRunning: return "running";
    case RunState::kSilent: return "silent";
    case RunState::kStopped: return "stopped";
    case RunState::kComplete: return "complete";
  }
  return "";
}

}  // namespace pimoe
