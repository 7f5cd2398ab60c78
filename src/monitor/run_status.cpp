#include "monitor/run_status.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/host.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "monitor/run_files.h"
#include "train/train_config.h"

#include <utility>

namespace pimoe {
namespace {

constexpr uint64_t kTailBytes = 4 << 20;

}  // namespace

RunWatcher::RunWatcher(std::filesystem::path folder) : folder_(std::move(folder)) { require_run_folder(folder_); }

RunStatus RunWatcher::look() {
  RunStatus status;
  status.name = name_of_run(folder_);
  status.now = wall_clock_seconds();
  const RunPaths paths(folder_);
  const std::filesystem::path config = paths.config();
  std::error_code missing;
  const auto time = std::filesystem::last_write_time(config, missing);
  try {
    if (!missing && config_time_ != time) {
      config_time_ = time;
      steps_ = parse_train_config(read_regular_file(config, kMostConfigBytes), config.string()).train.steps;
    }
  } catch (const Error& error) {  // a bar without an end is no reason to show nothing
    status.note = concat("config.yaml could not be read: ", error.what());
  }
  status.steps = steps_;
  try {
    const std::filesystem::path metrics = paths.metrics();
    std::error_code ignored;
    if (std::filesystem::exists(metrics, ignored)) {
      status.records = newest_records(metrics, kTailBytes);
      status.silence = seconds_since_change(metrics);
    }
    if (status.records.empty()) status.note = "no step has been recorded yet";
    EventsRead events = read_events_file(folder_);
    status.events = std::move(events.events);
    double started = 0.0;
    for (const nlohmann::json& event : status.events) {
      if (begins_process(event)) started = event["time"];
    }
    for (const auto& entry : std::filesystem::directory_iterator(paths.hang(), ignored)) {
      if (status.now - seconds_since_change(entry.path()) > started) status.hangs.push_back(entry.path().filename().string());
    }
  } catch (const IoError& error) {  // a start cuts metrics.jsonl while it is read: the next look sees the rest
    status.note = error.what();
  }
  return status;
}

}  // namespace pimoe
