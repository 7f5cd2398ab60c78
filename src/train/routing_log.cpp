#include "train/routing_log.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

std::string file_name(int64_t step, int rank) { return concat("step-", padded(step, 8), "-rank-", padded(rank, 4), ".h5"); }

/// @returns the step of file_name, of its digest, and of what a killed write of them left
std::optional<int64_t> step_of(const std::string& name) {
  const auto number_after = [&](std::string_view word) -> std::optional<int64_t> {
    const size_t at = name.find(word);
    if (at == std::string::npos) return std::nullopt;
    int64_t number = 0;
    const char* const begin = name.data() + at + word.size();
    return std::from_chars(begin, name.data() + name.size(), number).ec == std::errc() ? std::optional(number) : std::nullopt;
  };
  const std::optional<int64_t> step = number_after("step-");
  const std::optional<int64_t> rank = number_after("-rank-");
  if (!step || !rank) return std::nullopt;
  const std::string whole = file_name(*step, static_cast<int>(*rank));
  if (!name.starts_with(whole)) return std::nullopt;
  std::string_view rest = std::string_view(name).substr(whole.size());
  if (rest.starts_with(".sha256")) rest.remove_prefix(7);
  return rest.empty() || rest.starts_with(".tmp") ? step : std::nullopt;
}

}  // namespace

std::string in_the_way(const RoutingLogFile& file) {
  return concat(file.path.string(), " is no regular file, and in the way of a recording of step ", file.step, ", which will be lost");
}

std::vector<RoutingLogFile> routing_log_files(const fs::path& folder) {
  std::vector<RoutingLogFile> files;
  std::error_code failed;
  for (fs::directory_iterator entry(folder, failed), end; !failed && entry != end; entry.increment(failed)) {
    std::error_code ignored;
    if (const auto step = step_of(entry->path().filename().string()))
      files.push_back({*step, entry->path(), entry->is_regular_file(ignored)});
  }
  std::sort(files.begin(), files.end(), [](const RoutingLogFile& one, const RoutingLogFile& other) { return one.path < other.path; });
  return files;
}

void RoutingLogConfig::fields(FieldVisitor& visit) {
  visit.integer("every_steps", every_steps, {.at_least = 0, .at_most = 1'000'000'000},
                "steps between recordings of routing decisions in RUN/routing; 0: none");
  visit.integer("tokens", tokens, {.at_least = 1, .at_most = 1 << 20}, "tokens that are recorded: the first of the step's global batch");
}

RoutingLog::RoutingLog(const RoutingLogConfig& config, fs::path folder, int rank, std::vector<std::string> routers, const MoeConfig& moe,
                       int64_t sequence_length)
    : config_(config), folder_(std::move(folder)), rank_(rank), routers_(std::move(routers)), moe_(moe), sequence_length_(sequence_length) {
  if (config_.every_steps == 0 || routers_.empty()) return;
  try {
    try_folder();
  } catch (const IoError& error) {  // the contract: the key is named
    throw IoError(concat("log.routing.every_steps (", config_.every_steps, "): ", error.what()), error.code());
  }
}

void RoutingLog::try_folder() const {
  std::error_code failed;
  fs::create_directories(folder_, failed);
  if (failed) throw IoError(concat("cannot make the folder ", folder_.string(), ": ", failed.message()), failed.value());
  const fs::path attempt = folder_ / concat("rank-", padded(rank_, 4), ".try");
  replace_file(attempt, "");
  fs::remove(attempt, failed);
}

bool RoutingLog::is_due(int64_t step) const { return config_.every_steps > 0 && !routers_.empty() && step % config_.every_steps == 0; }

void RoutingLog::add(int64_t step, const MicroBatch& batch, const Prediction& prediction) {
  if (!is_due(step)) return;
  const int64_t first = batch.first_sequence * sequence_length_;
  const int64_t count = std::min(batch.tokens.numel(), config_.tokens - first);
  if (count <= 0) return;
  sample_.step = step;
  sample_.router_kind = moe_.router_kind();
  sample_.expert_count = moe_.experts;
  sample_.choices = moe_.choices;
  for (int64_t token = 0; token < count; ++token) sample_.tokens.push_back(first + token);
  const int64_t* ids = batch.tokens.const_data_ptr<int64_t>();
  sample_.token_ids.insert(sample_.token_ids.end(), ids, ids + count);
  for (size_t layer = 0; layer < routers_.size(); ++layer) {
    const at::Tensor experts = prediction.routing[layer].experts.narrow(0, 0, count).cpu().contiguous();
    const at::Tensor weights = prediction.routing[layer].weights.narrow(0, 0, count).cpu().to(at::kDouble).contiguous();
    RoutingDecisions& decisions = sample_.routers[routers_[layer]];
    decisions.choices = experts.size(1);
    decisions.experts.insert(decisions.experts.end(), experts.const_data_ptr<int32_t>(),
                             experts.const_data_ptr<int32_t>() + experts.numel());
    decisions.weights.insert(decisions.weights.end(), weights.const_data_ptr<double>(), weights.const_data_ptr<double>() + weights.numel());
  }
}

std::string RoutingLog::write() {
  const RoutingSample done = std::exchange(sample_, {});
  if (done.tokens.empty()) return "";
  std::error_code ignored;
  fs::create_directories(folder_, ignored);  // somebody may have tidied up
  try {
    write_routing(folder_ / file_name(done.step, rank_), done);
    return "";
  } catch (const Error& error) {  // the contract: a recording is no reason to end a run
    return error.what();
  }
}

std::vector<std::string> RoutingLog::cut_after(int64_t step) const {
  std::vector<std::string> troubles;
  for (const RoutingLogFile& file : routing_log_files(folder_)) {
    if (file.step <= step) continue;
    std::error_code failed;
    if (file.regular) fs::remove(file.path, failed);
    if (!file.regular && config_.every_steps > 0) troubles.push_back(in_the_way(file));
    if (failed) troubles.push_back(concat("cannot remove ", file.path.string(), ", whose step is done again: ", failed.message()));
  }
  return troubles;
}

}  // namespace pimoe
