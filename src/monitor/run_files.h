#pragma once

/// The text files of a run folder, as somebody reads them who takes no part in the run: they may be missing, empty, damaged, or growing.

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

inline constexpr uint64_t kMostConfigBytes = 1 << 20;

/// @throws DataError where `folder` is no folder, or has neither of metrics.jsonl, events.jsonl and config.yaml
void require_run_folder(const std::filesystem::path& folder);

/// @returns the folder's own name, also of "." and "runs/a/"
std::string name_of_run(const std::filesystem::path& folder);

/// Calls `visit` for each line, without its end, which the last one may lack. @param done, total  bytes of the file
/// @throws IoError where it cannot be read, or is no regular file
void for_each_line(const std::filesystem::path& file,
                   const std::function<void(const std::string& line, bool has_end, uint64_t done, uint64_t total)>& visit);

/// @returns the newest records of metrics.jsonl, oldest first, of those in its last `bytes` @throws IoError
std::vector<nlohmann::json> newest_records(const std::filesystem::path& file, uint64_t bytes);
/// @returns the newest one, however long its line; nothing where there is none @throws IoError
std::optional<nlohmann::json> newest_record(const std::filesystem::path& file);

struct EventsRead {
  std::vector<nlohmann::json> events;  ///< with a numeric `time` and `step` and an `event`; of the newest start from scratch on
  std::string note;                    ///< what could not be read; "": nothing
};
/// @returns what RUN/events.jsonl has; nothing where it is missing
EventsRead read_events_file(const std::filesystem::path& folder);

/// @returns whether an event is a process' first: the run begins, or goes on
bool begins_process(const nlohmann::json& event);

/// @returns "1 rank", "4 ranks"
std::string ranks_text(const std::string& ranks);

/// @returns what a line of events.jsonl says, for a person: "4 ranks, MPI, bfloat16"
std::string event_text(const nlohmann::json& event);

/// @returns since the file was written to, by its own time; 0 where it is missing
double seconds_since_change(const std::filesystem::path& file);

}  // namespace pimoe
