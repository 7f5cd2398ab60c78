#include "monitor/run_files.h"

#include "base/errors.h"
#include "base/large_file.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "monitor/record_values.h"
#include "train/metrics_file.h"
#include "train/run_events.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace pimoe {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kChunk = 1 << 20;
constexpr uint64_t kLongestLine = uint64_t{1} << 28;

}  // namespace

void require_run_folder(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::exists(folder, ignored)) throw DataError(concat("there is no run folder ", folder.string()));
  if (!std::filesystem::is_directory(folder, ignored)) throw DataError(concat(folder.string(), " must be a run folder, and is none"));
  const RunPaths paths(folder);
  for (const std::filesystem::path& file : {paths.metrics(), paths.events(), paths.config()}) {
    if (std::filesystem::exists(file, ignored)) return;
  }
  throw DataError(concat(folder.string(), " is no run folder: it has neither metrics.jsonl nor events.jsonl nor config.yaml"));
}

std::string name_of_run(const std::filesystem::path& folder) {
  std::error_code failed;
  std::filesystem::path whole = std::filesystem::weakly_canonical(folder, failed);
  if (failed) whole = folder;
  return whole.filename().empty() ? whole.parent_path().filename().string() : whole.filename().string();
}

void for_each_line(const std::filesystem::path& file, const std::function<void(const std::string&, bool, uint64_t, uint64_t)>& visit) {
  const LargeFileReader reader(file);
  std::string line;
  std::string chunk;
  for (uint64_t done = 0; done < reader.size();) {
    chunk.resize(std::min(kChunk, reader.size() - done));
    reader.read(done, chunk.data(), chunk.size());
    done += chunk.size();
    size_t begin = 0;
    for (size_t end = chunk.find('\n'); end != std::string::npos; end = chunk.find('\n', begin)) {
      line.append(chunk, begin, end - begin);
      visit(line, true, done, reader.size());
      line.clear();
      begin = end + 1;
    }
    line.append(chunk, begin);
    if (line.size() > kLongestLine)
      throw IoError(concat(file.string(), " has a line of more than ", kLongestLine, " bytes: it is no file of records"), EINVAL);
  }
  if (!line.empty()) visit(line, false, reader.size(), reader.size());
}

std::vector<Json> newest_records(const std::filesystem::path& file, uint64_t bytes) {
  const LargeFileReader reader(file);
  const uint64_t begin = reader.size() - std::min(bytes, reader.size());
  std::string text(reader.size() - begin, '\0');
  reader.read(begin, text.data(), text.size());
  std::vector<Json> records;
  for (const std::string& line : split(text, '\n')) {
    Json record = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (is_step_record(record)) records.push_back(std::move(record));
  }
  return records;
}

std::optional<Json> newest_record(const std::filesystem::path& file) {
  const uint64_t size = LargeFileReader(file).size();
  for (uint64_t bytes = 64 << 10;; bytes *= 8) {
    std::vector<Json> records = newest_records(file, bytes);
    if (!records.empty()) return std::move(records.back());
    if (bytes >= size) return std::nullopt;
  }
}

EventsRead read_events_file(const std::filesystem::path& folder) {
  EventsRead read;
  const std::filesystem::path file = RunPaths(folder).events();
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return read;
  int64_t damaged = 0;
  for_each_line(file, [&](const std::string& line, bool, uint64_t, uint64_t) {
    if (line.empty()) return;
    Json event = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool is_event = is_step_record(event) && event.contains("event") && event["event"].is_string() && event.contains("time") &&
                          event["time"].is_number();
    if (!is_event) {
      ++damaged;
      return;
    }
    if (event["event"] == run_event::kStart) read.events.clear();  // what was before is of another run, whose metrics were set aside
    read.events.push_back(std::move(event));
  });
  if (damaged > 0)
    read.note = concat("events.jsonl is damaged: ", counted(damaged, "line"), damaged == 1 ? " is" : " are", " no event, and left out");
  return read;
}

bool begins_process(const Json& event) {
  const std::string kind = event.at("event");
  return kind == run_event::kStart || kind == run_event::kResume;
}

std::string ranks_text(const std::string& ranks) { return concat(ranks, ranks == "1" ? " rank" : " ranks"); }

std::string event_text(const Json& event) {
  const std::string kind = event.at("event");
  if (begins_process(event)) {
    return concat(ranks_text(text_in(event, "ranks")), ", ", text_in(event, "transport"), ", ", text_in(event, "precision"));
  }
  if (kind == run_event::kSaved) {
    return concat("training waited ", human_duration(number_in(event, "waited_seconds")), ", written in ",
                  human_duration(number_in(event, "seconds")));
  }
  if (kind == run_event::kSaveFailed) return text_in(event, "why");
  if (kind == run_event::kRolledBack) return concat("from step ", text_in(event, "from"), " to ", text_in(event, "step"));
  if (kind == run_event::kAlertFired || kind == run_event::kAlertCleared) return text_in(event, "rule");
  return "";
}

double seconds_since_change(const std::filesystem::path& file) {
  std::error_code failed;
  const auto time = std::filesystem::last_write_time(file, failed);
  if (failed) return 0.0;
  return std::chrono::duration<double>(std::filesystem::file_time_type::clock::now() - time).count();
}

}  // namespace pimoe
