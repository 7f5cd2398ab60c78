#include "monitor/run_summary.h"

#include "base/text.h"
#include "monitor/record_values.h"
#include "monitor/run_files.h"
#include "train/run_events.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace pimoe {
namespace {

std::string config_value(const RunRecord& run, const std::string& key) {
  if (!run.config) return "";
  for (const auto& [name, value] : *run.config) {
    if (name == key) return value;
  }
  return "";
}

std::string start_text(const RunRecord& run, const char* key) {
  const auto value = run.start.is_object() ? run.start.find(key) : run.start.end();
  if (value == run.start.end()) return "";
  return value->is_string() ? value->get<std::string>() : grouped(value->is_number_integer() ? value->get<int64_t>() : 0);
}

std::string value_text(double value, int decimals) { return std::isfinite(value) ? fixed(value, decimals) : "not finite"; }

/// The newest point of a curve that is a number, and the least of all.
std::pair<Curve::Point, Curve::Point> newest_and_least(const Curve& curve) {
  Curve::Point newest{0, std::nan("")};
  Curve::Point least = newest;
  for (const Curve::Point& point : curve.points()) {
    if (!std::isfinite(point.value)) continue;
    newest = point;
    if (!(least.value <= point.value)) least = point;
  }
  return {newest, least};
}

}  // namespace

SummaryLines run_summary(const RunRecord& run) {
  SummaryLines lines;
  const auto add = [&lines](const char* title, const std::string& text) {
    if (!text.empty()) lines.emplace_back(title, text);
  };
  const std::string steps = config_value(run, "train.steps");
  const auto last_step = run.last.is_object() ? run.last["step"].get<int64_t>() : int64_t{0};
  if (run.records > 0) add("Step", concat(grouped(last_step), steps.empty() ? "" : concat(" of ", grouped(std::atoll(steps.c_str())))));
  if (const auto loss = run.curves.find("loss"); loss != run.curves.end()) {
    const auto [newest, least] = newest_and_least(loss->second);
    const double last_loss = number_in(run.last, "loss");
    add("Loss", concat(value_text(std::isfinite(last_loss) ? last_loss : newest.value, 4), "; least ", value_text(least.value, 4),
                       " at step ", grouped(least.step)));
  }
  if (const auto validation = run.curves.find("validation_loss"); validation != run.curves.end()) {
    const auto [newest, least] = newest_and_least(validation->second);
    add("Validation", concat(value_text(newest.value, 4), " at step ", grouped(newest.step), "; least ", value_text(least.value, 4),
                             " at step ", grouped(least.step)));
  }
  const std::string parameters = start_text(run, "parameters");
  if (!parameters.empty()) add("Model", concat(parameters, " parameters, ", start_text(run, "active_parameters"), " active for a token"));
  if (run.config) {
    add("Shape", concat(config_value(run, "model.layers"), " layers of width ", config_value(run, "model.width"),
                        run.layers.empty() ? ", dense"
                                           : concat("; ", run.layers.size(), " with ", config_value(run, "model.moe.experts"), " experts, ",
                                                    config_value(run, "model.moe.choices"), " for each token")));
    add("Batch", concat(config_value(run, "train.global_batch"), " sequences of ", config_value(run, "model.sequence_length"), " tokens"));
  }
  if (run.start.is_object()) {
    add("Layout", concat(ranks_text(start_text(run, "ranks")), ", experts shared out over ", start_text(run, "expert_parallel"), ", ",
                         start_text(run, "transport"), ", ", start_text(run, "precision")));
    add("Hardware", start_text(run, "device"));
  }
  if (const double tokens = number_in(run.last, "tokens"); std::isfinite(tokens)) add("Tokens", grouped(static_cast<int64_t>(tokens)));
  if (run.records > 0) add("Time in steps", human_duration(run.train_seconds));
  const double last_speed = number_in(run.last, "tokens_per_second");
  const double speed = run.read_tokens / run.train_seconds;
  if (std::isfinite(speed) && std::isfinite(last_speed))
    add("Throughput", concat(grouped(static_cast<int64_t>(speed)), " tok/s on average"));
  const double mfu = number_in(run.last, "mfu") * speed / last_speed;
  if (std::isfinite(mfu)) add("MFU", concat(percent_text(mfu), " on average"));
  if (const double memory = number_in(run.last, "memory_bytes"); std::isfinite(memory)) add("Memory, rank 0", human_bytes(memory));
  const auto count = [&run](const char* kind) {
    return std::count_if(run.events.begin(), run.events.end(), [kind](const RunEvent& event) { return event.kind == kind; });
  };
  std::vector<std::string> troubles;
  if (const auto resumes = count(run_event::kResume); resumes > 0) troubles.push_back(counted(resumes, "resume"));
  if (run.skipped > 0) troubles.push_back(concat(counted(run.skipped, "step"), " skipped"));
  if (const auto rollbacks = count(run_event::kRolledBack); rollbacks > 0) troubles.push_back(counted(rollbacks, "rollback"));
  if (const auto failed = count(run_event::kSaveFailed); failed > 0) troubles.push_back(concat(counted(failed, "save"), " failed"));
  if (const auto alarms = count(record_event::kAlarm); alarms > 0) troubles.push_back(counted(alarms, "alarm"));
  if (run.records > 0) add("Events", troubles.empty() ? "none but starts and saves" : join(troubles, ", "));
  return lines;
}

}  // namespace pimoe
