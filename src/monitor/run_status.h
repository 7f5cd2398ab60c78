#pragma once

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
};

/// Reads the newest records of a run again and again, without reading what is old.
class RunWatcher {
 public:
  /// @throws IoError where it is no run folder
  explicit RunWatcher(std::filesystem::path folder);

  /// Never throws for what a run that goes on does to its files. @cost reads the last 4 MiB of metrics.jsonl, and events.jsonl where it has changed
  RunStatus look();

 private:
  std::filesystem::path folder_;
  std::optional<std::filesystem::file_time_type> config_time_;
  int64_t steps_ = 0;
};

}  // namespace pimoe
