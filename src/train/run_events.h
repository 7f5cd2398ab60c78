#pragma once

#include "base/log.h"
#include "train/growing_file.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string>

namespace pimoe {

/// The words of `event`, for those who write and who read them.
namespace run_event {
inline constexpr const char* kStart = "start";             ///< a process begins from scratch
inline constexpr const char* kResume = "resume";           ///< a process goes on from a checkpoint
inline constexpr const char* kSave = "save";               ///< a save begins
inline constexpr const char* kSaved = "saved";             ///< it is good
inline constexpr const char* kSaveFailed = "save_failed";  ///< it failed
inline constexpr const char* kRolledBack = "rolled_back";  ///< a run that diverged went back
inline constexpr const char* kStopped = "stopped";         ///< it was asked to stop, and saved
inline constexpr const char* kComplete = "complete";       ///< all steps are done
inline constexpr const char* kAlertFired = "alert_fired";  ///< one of monitor.alerts
inline constexpr const char* kAlertCleared = "alert_cleared";
inline constexpr const char* kStoppedByAlert = "stopped_by_alert";  ///< one that was to stop the run did, and it was saved
}  // namespace run_event

/// RUN/events.jsonl: what happened to a run beside its steps, one JSON object a line, each with `time` (seconds since 1970), `step` and `event`
/// (docs/run_folder.md lists them). metrics.jsonl has each step once, as if nothing had happened; this file has what did. Nobody reads it back into a run.
class RunEvents {
 public:
  /// @param log  is told once of what keeps events from being written; outlives it
  RunEvents(const std::filesystem::path& run, Logger& log);

  /// @param event    a word of run_event
  /// @param details  an object whose keys follow the three; may be empty. Throws nothing on a full disk: the event waits
  void add(int64_t step, const char* event, const nlohmann::ordered_json& details);
  void add(int64_t step, const char* event);

 private:
  GrowingFile file_;
  Logger& log_;
  bool is_told_ = false;
};

}  // namespace pimoe
