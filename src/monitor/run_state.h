#pragma once

#include <string>

namespace pimoe {

/// What a run is doing, seen from outside.
enum class RunState {
  kEmpty,     ///< no step has been recorded yet
  kRunning,   ///< steps come
  kSilent,    ///< none has come for long, and the run has not said why: it was killed, it hangs, or it has not begun again yet
  kStopped,   ///< it saved and left, to go on later
  kComplete,  ///< all its steps are done
};

/// What the state follows from.
struct RunSigns {
  std::string last_event;     ///< the newest of events.jsonl (train/run_events.h); "": none
  bool has_records = false;   ///< of steps
  double step_seconds = 0.0;  ///< what a step takes; NaN: unknown
  double silence = 0.0;       ///< seconds since the newest record
};

/// @returns silent where no step has come for a minute, or for ten steps if those take longer
RunState run_state(const RunSigns& signs);

/// @returns the word for it, as `pimoe report` and `pimoe top` show it: "running"
const char* state_word(RunState state);

}  // namespace pimoe
