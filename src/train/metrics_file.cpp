#include "train/metrics_file.h"

#include "base/config_fields.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/run_paths.h"
#include "base/text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace pimoe {
namespace {

/// The records of a text by the step that they are of; what is none is left out.
struct Records {
  std::string kept;     ///< those up to a step, as they stand at the text's beginning
  std::string unended;  ///< the last of them, where a kill has taken the end of its line: to be written anew
  std::string dropped;  ///< those behind
};

Records records_up_to(int64_t step, const std::string& text) {
  Records records;
  size_t begin = 0;
  size_t kept = 0;
  for (const std::string& line : split(text, '\n')) {
    const size_t end = begin + line.size() + 1;
    begin = end;
    const nlohmann::json record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!is_step_record(record)) continue;
    if (record["step"].get<int64_t>() > step || !records.dropped.empty()) {
      records.dropped += line + "\n";
    } else if (end <= text.size()) {
      kept = end;
    } else {
      records.unended = line + "\n";
    }
  }
  records.kept = text.substr(0, kept);
  return records;
}

}  // namespace

bool is_step_record(const nlohmann::json& record) {
  if (!record.is_object()) return false;
  const auto step = record.find("step");
  return step != record.end() && step->is_number_integer() && *step >= 0 && *step <= static_cast<int64_t>(kMostSteps);
}

MetricsFile::MetricsFile(const std::filesystem::path& file, int64_t resumed_step) : path_(file) {
  good_bytes_ = UINT64_MAX;
  static_cast<void>(take_after(resumed_step));
  settle();
}

std::string MetricsFile::take_after(int64_t step) {
  std::string text;
  if (std::filesystem::exists(path_)) text = read_regular_file(path_);
  text.resize(std::min<uint64_t>(text.size(), good_bytes_));
  const Records written = records_up_to(step, text);
  const Records waiting = records_up_to(step, pending_);
  good_bytes_ = written.kept.size();
  pending_ = written.unended + waiting.kept;
  is_settled_ = false;
  return written.dropped + waiting.dropped;
}

void MetricsFile::settle() {
  if (!undone_.empty()) append_durably(RunPaths(path_.parent_path()).undone_metrics(), undone_);
  undone_.clear();
  if (is_settled_) return;
  out_.close();
  out_.clear();
  require_regular(path_);
  out_.open(path_, std::ios::app);
  std::error_code failed;
  if (out_) std::filesystem::resize_file(path_, good_bytes_, failed);
  if (!out_ || failed) {
    const int code = failed ? failed.value() : errno;
    throw IoError(concat("cannot write ", path_.string(), ": ", std::generic_category().message(code)), code);
  }
  is_settled_ = true;
}

std::string MetricsFile::roll_back(int64_t step) try {
  undone_ += take_after(step);
  return flush();
} catch (const IoError& error) {  // the contract: no record of a run is a reason to end it
  return error.what();
}

std::string MetricsFile::append(const StepRecord& record) {
  pending_ += to_json(record) + "\n";
  return flush();
}

std::string MetricsFile::flush() try {
  settle();
  out_ << pending_ << std::flush;
  if (out_) {
    good_bytes_ += pending_.size();
    pending_.clear();
    return "";
  }
  // A part of it may have been written: away with that, and all of it again with the next record.
  is_settled_ = false;
  settle();
  return concat("cannot write ", path_.string(), " (is the disk full?)");
} catch (const IoError& error) {  // the contract, as above
  return error.what();
}

}  // namespace pimoe
