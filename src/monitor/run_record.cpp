#include "monitor/run_record.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "monitor/record_values.h"
#include "monitor/run_files.h"
#include "train/metrics_file.h"
#include "train/train_config.h"
#include "train/webhook.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

namespace pimoe {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostEvents = 20'000;  ///< of one kind; more are counted
constexpr int64_t kLeastLoadStretches = 16;
constexpr int64_t kMostLoadStretches = 300;

/// Takes the records of metrics.jsonl one by one.
class RecordReader {
 public:
  RecordReader(RunRecord& run, const RunRecordOptions& options, int64_t last_step) : run_(run), options_(options), last_step_(last_step) {}

  /// Curves have room for steps up to the newest record's, and for those that a run writes while it is read: one after the other.
  bool can_be_next(int64_t step) const { return step <= std::max(last_step_, step_before_ + 1); }

  void add(Json& record) {
    const int64_t step = record["step"];
    step_before_ = step;
    if (run_.records == 0) run_.first_step = step;
    ++run_.records;
    for (const char* key : kCurveKeys) {
      const auto value = record.find(key);
      if (value == record.end()) continue;
      if (value->is_null() && std::string_view(key) == "mfu") continue;  // unknown, on CPUs, and not infinite
      run_.curves.try_emplace(key, run_.first_step, last_step_, options_.curve_stretches).first->second.add(step, number_in(record, key));
    }
    if (const double seconds = number_in(record, "step_seconds"); std::isfinite(seconds)) {
      run_.train_seconds += seconds;
      if (const double speed = number_in(record, "tokens_per_second"); std::isfinite(speed)) run_.read_tokens += seconds * speed;
    }
    add_skip(step, record);
    add_sentences(step, record, "alarms", record_event::kAlarm);
    add_sentences(step, record, "adaptive/moves", record_event::kMoved);
    add_layers(step, record);
    run_.last = std::move(record);
  }

  void finish() {
    for (const auto& [kind, count] : left_out_) run_.notes.push_back(concat(grouped(count), " more events (", kind, ") are not shown"));
    if (other_shapes_ > 0)
      run_.notes.push_back(concat(counted(other_shapes_, "record"), " with other layers or experts than the first are not in the maps"));
    if (run_.last.is_object()) {
      for (auto key = run_.last.begin(); key != run_.last.end();) key = key->is_array() ? run_.last.erase(key) : std::next(key);
    }
  }

 private:
  void add_event(RunEvent event) {
    if (++events_[event.kind] > kMostEvents) {
      ++left_out_[event.kind];
      return;
    }
    run_.events.push_back(std::move(event));
  }

  void add_skip(int64_t step, const Json& record) {
    const auto skipped = record.find("skipped");
    if (skipped == record.end() || *skipped != true) return;
    ++run_.skipped;
    const auto because = record.find("skipped_because");
    const std::string why = because != record.end() && because->is_string() ? because->get<std::string>() : "";
    RunEvent* before = open_skip_ < run_.events.size() ? &run_.events[open_skip_] : nullptr;
    if (before != nullptr && before->kind == record_event::kSkipped && before->last_step + 1 == step && before->text == why) {
      before->last_step = step;
      return;
    }
    open_skip_ = run_.events.size();
    add_event({.step = step, .last_step = step, .kind = record_event::kSkipped, .text = why});
  }

  void add_sentences(int64_t step, const Json& record, const char* key, const char* kind) {
    const auto list = record.find(key);
    if (list == record.end() || !list->is_array()) return;
    for (const Json& text : *list) {
      if (text.is_string()) add_event({.step = step, .last_step = step, .kind = kind, .text = without_step(text.get<std::string>(), step)});
    }
  }

  void add_layers(int64_t step, const Json& record) {
    const auto layers = record.find("moe/layers");
    const auto load = record.find("moe/load");
    if (layers == record.end() || load == record.end() || !layers->is_array() || !load->is_array() || layers->size() != load->size())
      return;
    if (run_.loads.empty() && !begin_layers(*layers, *load)) return;
    if (layers->size() != run_.layers.size()) {
      ++other_shapes_;
      return;
    }
    for (size_t layer = 0; layer < load->size(); ++layer) {
      const std::vector<double> counts = numbers_of((*load)[layer]);
      if (counts.size() == run_.loads[layer].rows()) run_.loads[layer].add(step, counts);
    }
    for (const char* key : kLayerMapKeys) {
      const auto values = record.find(concat(key, "_layers"));
      if (values == record.end() || values->size() != run_.layers.size()) continue;
      run_.layer_maps.try_emplace(key, run_.first_step, last_step_, options_.layer_stretches, run_.layers.size())
          .first->second.add(step, numbers_of(*values));
    }
  }

  bool begin_layers(const Json& layers, const Json& load) {
    int64_t cells = 0;
    for (const Json& of_layer : load) {
      if (!of_layer.is_array() || of_layer.empty()) return false;
      cells += static_cast<int64_t>(of_layer.size());
    }
    if (cells == 0) return false;
    for (const Json& layer : layers) run_.layers.push_back(layer.is_number_integer() ? layer.get<int64_t>() : 0);
    const int64_t stretches = std::clamp(options_.most_load_cells / cells, kLeastLoadStretches, kMostLoadStretches);
    for (const Json& of_layer : load) run_.loads.emplace_back(run_.first_step, last_step_, stretches, of_layer.size());
    return true;
  }

  RunRecord& run_;
  const RunRecordOptions& options_;
  int64_t last_step_;
  int64_t step_before_ = -1;
  size_t open_skip_ = std::numeric_limits<size_t>::max();
  std::map<std::string, size_t> events_;
  std::map<std::string, int64_t> left_out_;
  int64_t other_shapes_ = 0;
};

void read_metrics(RunRecord& run, const RunRecordOptions& options, const std::function<void(uint64_t, uint64_t)>& progress) {
  const std::filesystem::path file = RunPaths(run.folder).metrics();
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    run.notes.push_back("there is no metrics.jsonl: no step has been recorded yet");
    return;
  }
  const std::optional<Json> newest = newest_record(file);
  RecordReader reader(run, options, newest ? newest->at("step").get<int64_t>() : 0);
  int64_t damaged = 0;
  bool ends_within_a_line = false;
  for_each_line(file, [&](const std::string& line, bool has_end, uint64_t done, uint64_t total) {
    static_cast<void>(done);
    if (progress) progress(done, total);
    if (line.empty()) return;
    Json record = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (is_step_record(record) && reader.can_be_next(record["step"])) return reader.add(record);
    if (has_end) {
      ++damaged;
    } else {
      ends_within_a_line = true;
    }
  });
  reader.finish();
  if (damaged > 0)
    run.notes.push_back(concat("metrics.jsonl is damaged: ", counted(damaged, "line"), damaged == 1 ? " is" : " are",
                               " no record of a step, and left out"));
  if (ends_within_a_line) run.notes.push_back("the last line of metrics.jsonl has no end: it is being written, or a kill has cut it");
  if (run.records == 0 && damaged == 0) run.notes.push_back("metrics.jsonl is empty: no step has been recorded yet");
}

/// @returns the newest event's kind
std::string read_events(RunRecord& run) {
  std::vector<RunEvent> found;
  const EventsRead events = read_events_file(run.folder);
  for (const Json& each : events.events) {
    RunEvent event{.step = each["step"], .last_step = each["step"], .time = each["time"], .kind = each["event"], .text = ""};
    if (begins_process(each)) run.start = each;
    event.text = event_text(each);
    found.push_back(std::move(event));
  }
  if (!events.note.empty()) run.notes.push_back(events.note);
  if (found.size() > kMostEvents) {
    run.notes.push_back(concat(grouped(static_cast<int64_t>(found.size() - kMostEvents)), " older events of events.jsonl are not shown"));
    found.erase(found.begin(), found.end() - kMostEvents);
  }
  run.events.insert(run.events.begin(), found.begin(), found.end());
  std::stable_sort(run.events.begin(), run.events.end(), [](const RunEvent& a, const RunEvent& b) { return a.step < b.step; });
  return events.events.empty() ? "" : events.events.back().at("event").get<std::string>();
}

void read_config(RunRecord& run) {
  const std::filesystem::path file = RunPaths(run.folder).config();
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return run.notes.push_back("there is no config.yaml");
  try {
    TrainConfig config = parse_train_config(read_regular_file(file, kMostConfigBytes), file.string());
    config.monitor.webhook = webhook_place(config.monitor.webhook);  // a page is handed on
    run.config = config_values([&config](FieldVisitor& visit) { config.fields(visit); });
  } catch (const Error& error) {  // what else is there is told all the same
    run.notes.push_back(concat("config.yaml could not be read: ", error.what()));
  }
}

}  // namespace

RunRecord read_run(const std::filesystem::path& folder, const RunRecordOptions& options,
                   const std::function<void(uint64_t, uint64_t)>& progress) {
  require_run_folder(folder);
  RunRecord run;
  run.folder = folder;
  run.name = name_of_run(folder);
  read_config(run);
  read_metrics(run, options, progress);
  const std::string last_event = read_events(run);
  run.state = run_state({.last_event = last_event,
                         .has_records = run.records > 0,
                         .step_seconds = number_in(run.last, "step_seconds"),
                         .silence = seconds_since_change(RunPaths(folder).metrics())});
  return run;
}

}  // namespace pimoe
