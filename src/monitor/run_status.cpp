#include "monitor/run_status.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/host.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "monitor/record_values.h"
#include "monitor/run_files.h"
#include "train/train_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace pimoe {
namespace {

constexpr uint64_t kTailBytes = 4 << 20;
constexpr size_t kRecentSteps = 20;

using Json = nlohmann::ordered_json;

}  // namespace

double RunStatus::recent(const char* key) const {
  double sum = 0.0;
  int count = 0;
  for (size_t at = records.size() - std::min(records.size(), kRecentSteps); at < records.size(); ++at) {
    const double value = number_in(records[at], key);
    if (!std::isfinite(value)) continue;
    sum += value;
    ++count;
  }
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / count;
}

RunState RunStatus::state() const {
  return run_state({.last_event = events.empty() ? "" : events.back()["event"].get<std::string>(),
                    .has_records = !records.empty(),
                    .step_seconds = recent("step_seconds"),
                    .silence = silence});
}

double RunStatus::seconds_left() const {
  const int64_t left = records.empty() ? 0 : steps - records.back()["step"].get<int64_t>();
  return left > 0 ? recent("step_seconds") * static_cast<double>(left) : std::numeric_limits<double>::quiet_NaN();
}

Json to_json(const RunStatus& status) {
  const bool has_records = !status.records.empty();
  const auto known = [](bool is_known, auto value) { return is_known ? Json(value) : Json(); };
  const double seconds_left = status.seconds_left();
  return {{"run", status.name},
          {"state", state_word(status.state())},
          {"note", status.note},
          {"step", has_records ? Json(status.records.back()["step"]) : Json()},
          {"steps", known(status.steps > 0, status.steps)},
          {"seconds_left", known(std::isfinite(seconds_left), seconds_left)},
          {"seconds_since_step", known(has_records, status.silence)},
          {"last", has_records ? Json(status.records.back()) : Json()},
          {"last_event", status.events.empty() ? Json() : Json(status.events.back())},
          {"hangs", status.hangs}};
}

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
