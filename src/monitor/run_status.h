#pragma once

#include "monitor/run_state.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// What a run folder tells of a run at this moment, from the ends of its files.
struct RunStatus {
  std::string name;
  std::string note;                     ///< why there is nothing, or what is wrong with it; "": nothing is
  std::vector<nlohmann::json> records;  ///< the newest, oldest first
  std::vector<nlohmann::json> events;   ///< of events.jsonl, all of the run
  int64_t steps = 0;                    ///< that the run is to do; 0: unknown
  double now = 0.0;                     ///< seconds since 1970
  double silence = 0.0;                 ///< seconds since metrics.jsonl changed
  std::vector<std::string> hangs;       ///< files of RUN/hang that are newer than the newest start

  /// The mean of the newest 20 steps' values; NaN where none of them has one.
  double recent(const char* key) const;
  RunState state() const;
  /// Until the last step, at the newest steps' speed; NaN: unknown, or none is left
  double seconds_left() const;
};

/// What `pimoe top --json` prints. Numbers that are unknown are null; "last" is the newest record of metrics.jsonl.
nlohmann::ordered_json to_json(const RunStatus& status);

/// Reads the newest records of a run again and again, without reading what is old.
class RunWatcher {
 public:
  /// @throws DataError where it is no run folder
  explicit RunWatcher(std::filesystem::path folder);

  /// Never throws for what a run that goes on does to its files. @cost reads the last 4 MiB of metrics.jsonl, and events.jsonl where it has changed
  RunStatus look();

 private:
  std::filesystem::path folder_;
  std::optional<std::filesystem::file_time_type> config_time_;
  int64_t steps_ = 0;
};

}  // namespace pimoe
