#include "train/metrics.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <numeric>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }
double mean(const std::vector<double>& values) { return sum(values) / static_cast<double>(values.size()); }

/// key (mean over layers), key_worst and key_layers.
void add_layers(Json& json, const std::string& key, const std::vector<double>& layers, bool largest_is_worst) {
  json[key] = mean(layers);
  json[key + "_worst"] =
      largest_is_worst ? *std::max_element(layers.begin(), layers.end()) : *std::min_element(layers.begin(), layers.end());
  json[key + "_layers"] = layers;
}

void add_routing(Json& json, const RoutingMetrics& routing) {
  int64_t dead = 0;
  for (const auto& layer : routing.load) dead += std::count(layer.begin(), layer.end(), 0);
  add_layers(json, "moe/maxvio", routing.maxvio, true);
  add_layers(json, "moe/entropy", routing.entropy, false);
  add_layers(json, "moe/utilization", routing.utilization, false);
  add_layers(json, "moe/balance_loss", routing.balance_loss, true);
  add_layers(json, "moe/z_loss", routing.z_loss, true);
  add_layers(json, "moe/gate_confidence", routing.gate_confidence, false);
  add_layers(json, "moe/maxvio_rank", routing.maxvio_rank, true);
  add_layers(json, "moe/dropped_fraction", routing.dropped_fraction, true);
  json["moe/dead_experts"] = dead;
  json["moe/scaled_loss"] = sum(routing.scaled_loss);
  json["moe/fallback_tokens"] = sum(routing.fallback_tokens);
  json["moe/nonfinite_slots"] = sum(routing.nonfinite_slots);
  json["moe/dispatch_ms"] = sum(routing.dispatch_ms);
  json["moe/experts_ms"] = sum(routing.experts_ms);
  json["moe/combine_ms"] = sum(routing.combine_ms);
  json["moe/bias_min"] = *std::min_element(routing.bias_min.begin(), routing.bias_min.end());
  json["moe/bias_max"] = *std::max_element(routing.bias_max.begin(), routing.bias_max.end());
  json["moe/load"] = routing.load;
}

void add_adaptive(Json& json, const AdaptiveRecord& adaptive) {
  json["adaptive/bias_rate"] = mean(adaptive.bias_rate);
  json["adaptive/bias_rate_layers"] = adaptive.bias_rate;
  json["adaptive/switch_loss"] = adaptive.switch_loss;
  json["adaptive/temperature"] = adaptive.temperature;
  json["adaptive/moves"] = adaptive.moves;
}

}  // namespace

double maxvio(const std::vector<double>& counts) {
  const double average = mean(counts);
  return average > 0 ? (*std::max_element(counts.begin(), counts.end()) - average) / average : 0.0;
}

RoutingMetrics routing_metrics(const at::Tensor& load) {
  RoutingMetrics metrics;
  const int64_t experts = load.size(1);
  for (int64_t layer = 0; layer < load.size(0); ++layer) {
    const int64_t* counts = load.const_data_ptr<int64_t>() + layer * experts;
    metrics.load.emplace_back(counts, counts + experts);
    const auto total = static_cast<double>(std::accumulate(counts, counts + experts, int64_t{0}));
    double entropy = 0.0;
    for (int64_t expert = 0; expert < experts; ++expert) {
      if (counts[expert] > 0)
        entropy -= static_cast<double>(counts[expert]) / total * std::log(static_cast<double>(counts[expert]) / total);
    }
    metrics.maxvio.push_back(maxvio(std::vector<double>(counts, counts + experts)));
    metrics.entropy.push_back(experts > 1 ? entropy / std::log(static_cast<double>(experts)) : 1.0);
    metrics.utilization.push_back(1.0 - static_cast<double>(std::count(counts, counts + experts, 0)) / static_cast<double>(experts));
  }
  return metrics;
}

std::string to_json(const StepRecord& record) {
  Json json;
  json["step"] = record.step;
  json["loss"] = record.loss;
  if (record.validation_loss) json["validation_loss"] = *record.validation_loss;
  json["grad_norm"] = record.gradient_norm;
  json["learning_rate"] = record.learning_rate;
  json["loss_scale"] = record.loss_scale;
  json["skipped"] = record.outcome != StepOutcome::kTaken;
  if (record.outcome != StepOutcome::kTaken) json["skipped_because"] = record.outcome == StepOutcome::kSpike ? "spike" : "not finite";
  json["tokens"] = record.tokens;
  json["step_seconds"] = record.step_seconds;
  json["tokens_per_second"] = record.tokens_per_second;
  json["mfu"] = record.mfu ? Json(*record.mfu) : Json();
  json["mfu_torchtitan"] = record.mfu_torchtitan ? Json(*record.mfu_torchtitan) : Json();
  json["memory_bytes"] = record.memory_bytes;
  json["activation_bytes"] = record.activation_bytes;
  if (record.routing) add_routing(json, *record.routing);
  if (!record.alarms.empty()) json["alarms"] = record.alarms;
  if (record.adaptive) add_adaptive(json, *record.adaptive);
  return json.dump();
}

std::string to_line(const StepRecord& record, int64_t steps, double seconds_left) {
  const std::string last = concat(steps);
  const std::string step = concat(record.step);
  std::string line = concat("step ", std::string(last.size() - std::min(last.size(), step.size()), ' '), step, "/", last, "  loss ",
                            fixed(record.loss, 4));
  if (record.validation_loss) line += concat("  val ", fixed(*record.validation_loss, 4));
  if (record.routing) line += concat("  bal ", fixed(mean(record.routing->balance_loss), 3));
  line += concat("  norm ", fixed(record.gradient_norm, 3), "  lr ", scientific(record.learning_rate, 1));
  if (record.loss_scale != 1.0) line += concat("  scale ", record.loss_scale);
  line += concat("  ", grouped(static_cast<int64_t>(record.tokens_per_second)), " tok/s");
  if (record.mfu) line += concat("  ", fixed(*record.mfu * 100, 1), " % MFU");
  if (record.routing) {
    const auto& maxvio = record.routing->maxvio;
    const auto worst = std::max_element(maxvio.begin(), maxvio.end());
    line += concat("  maxvio ", fixed(mean(maxvio), 2), " (worst layer ", worst - maxvio.begin(), ": ", fixed(*worst, 2), ")");
  }
  line += concat("  ", human_bytes(static_cast<double>(record.memory_bytes)), " (activations ",
                 human_bytes(static_cast<double>(record.activation_bytes)), ")");
  switch (record.outcome) {
    case StepOutcome::kTaken: break;
    case StepOutcome::kNotFinite:
      line += std::isfinite(record.loss) ? "  SKIPPED: gradients not finite" : "  SKIPPED: loss not finite";
      break;
    case StepOutcome::kSpike: line += "  SKIPPED: spike"; break;
  }
  return line + concat("  left ", human_duration(seconds_left));
}

MetricsFile::MetricsFile(const std::filesystem::path& file, int64_t resumed_step) : path_(file) { cut_after(resumed_step); }

std::string MetricsFile::cut_after(int64_t step) {
  out_.close();
  std::string kept;
  std::string dropped;
  if (std::filesystem::exists(path_)) {
    for (const std::string& line : split(read_file(path_), '\n')) {
      const Json record = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      // A kill can leave a line without its end: that step is done again.
      if (!record.is_object() || record.value("step", int64_t{-1}) < 0) continue;
      (record.value("step", int64_t{-1}) <= step ? kept : dropped) += line + "\n";
    }
  }
  replace_file(path_, kept);
  good_bytes_ = kept.size();
  out_.open(path_, std::ios::app);
  return dropped;
}

void MetricsFile::roll_back(int64_t step) {
  const std::string dropped = cut_after(step);
  const std::filesystem::path aside = path_.parent_path() / "metrics.rolled_back.jsonl";
  std::ofstream out(aside, std::ios::app);
  out << dropped << std::flush;
  if (!out) throw IoError(concat("cannot write ", aside.string(), " (is the disk full?)"), EIO);
}

std::string MetricsFile::append(const StepRecord& record) {
  pending_ += to_json(record) + "\n";
  return flush();
}

std::string MetricsFile::flush() {
  out_ << pending_ << std::flush;
  if (out_) {
    good_bytes_ += pending_.size();
    pending_.clear();
    return "";
  }
  // A part of it may have been written: away with that, and all of it again with the next record.
  out_.clear();
  out_.close();
  std::error_code ignored;
  std::filesystem::resize_file(path_, good_bytes_, ignored);
  out_.open(path_, std::ios::app);
  return concat("cannot write ", path_.string(), " (is the disk full?)");
}

}  // namespace pimoe
