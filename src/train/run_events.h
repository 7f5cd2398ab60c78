#pragma once

#include "base/log.h"
#include "train/growing_file.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string>

namespace pimoe {

/// RUN/events.jsonl: what happened to a run beside its steps, one JSON object a line, each with `time` (seconds since 1970), `step` and `event`
/// (docs/run_folder.md lists them). metrics.jsonl has each step once, as if nothing had happened; this file has what did. Nobody reads it back into a run.
class RunEvents {
 public:
  /// @param log  is told once of what keeps events from being written; outlives it
  RunEvents(const std::filesystem::path& run, Logger& log);

  /// @param details  an object whose keys follow the three; may be empty. Throws nothing on a full disk: the event waits
  void add(int64_t step, const char* event, const nlohmann::ordered_json& details);
  void add(int64_t step, const char* event);

 private:
  GrowingFile file_;
  Logger& log_;
  bool is_told_ = false;
};

}  // namespace pimoe
