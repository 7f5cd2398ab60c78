#include "train/metrics.h"

#include "base/text.h"
#include "moe/load_statistics.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }
double mean(const std::vector<double>& values) { return sum(values) / static_cast<double>(values.size()); }

enum class Worst { kLargest, kSmallest };

double worst_of(const std::vector<double>& layers, Worst worst) {
  return worst == Worst::kLargest ? *std::max_element(layers.begin(), layers.end()) : *std::min_element(layers.begin(), layers.end());
}

/// @returns the values with six digits behind the point: no more of them say anything.
std::vector<double> rounded(std::vector<double> values) {
  for (double& value : values) value = std::round(value * 1e6) / 1e6;
  return values;
}

/// key (mean over layers), key_worst and key_layers.
void add_mean(Json& json, const std::string& key, const std::vector<double>& layers, Worst worst) {
  json[key] = mean(layers);
  json[key + "_worst"] = worst_of(layers, worst);
  json[key + "_layers"] = layers;
}

/// key (sum over layers), key_worst (largest) and key_layers.
void add_sum(Json& json, const std::string& key, const std::vector<double>& layers) {
  json[key] = sum(layers);
  json[key + "_worst"] = worst_of(layers, Worst::kLargest);
  json[key + "_layers"] = layers;
}

/// The same for whole numbers.
void add_count(Json& json, const std::string& key, const std::vector<double>& layers) {
  const std::vector<int64_t> counts(layers.begin(), layers.end());
  json[key] = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  json[key + "_worst"] = *std::max_element(counts.begin(), counts.end());
  json[key + "_layers"] = counts;
}

/// key (the extreme over layers) and key_layers.
void add_extreme(Json& json, const std::string& key, const std::vector<double>& layers, Worst extreme) {
  json[key] = worst_of(layers, extreme);
  json[key + "_layers"] = layers;
}

const char* key_of(BalanceRule rule) {
  switch (rule) {
    case BalanceRule::kSwitch: return "moe/balance_loss";
    case BalanceRule::kZ: return "moe/z_loss";
    case BalanceRule::kStep: return "moe/step_loss";
    case BalanceRule::kSequence: return "moe/sequence_loss";
    case BalanceRule::kLocal: return "moe/local_loss";
  }
  return "";
}

void add_routing(Json& json, const RoutingMetrics& routing) {
  json["moe/layers"] = routing.layers;
  add_mean(json, "moe/maxvio", routing.maxvio, Worst::kLargest);
  add_mean(json, "moe/entropy", routing.entropy, Worst::kSmallest);
  add_mean(json, "moe/utilization", routing.utilization, Worst::kSmallest);
  for (const RuleLoss& loss : routing.losses) {
    add_mean(json, key_of(loss.rule), loss.unscaled, Worst::kLargest);
    add_sum(json, concat(key_of(loss.rule), "_scaled"), loss.scaled);
  }
  add_mean(json, "moe/gate_confidence", routing.gate_confidence, Worst::kSmallest);
  add_mean(json, "moe/maxvio_rank", routing.maxvio_rank, Worst::kLargest);
  add_mean(json, "moe/dropped_fraction", routing.dropped_fraction, Worst::kLargest);
  add_count(json, "moe/dead_experts", routing.dead_experts);
  add_sum(json, "moe/scaled_loss", routing.scaled_loss);
  add_count(json, "moe/fallback_tokens", routing.fallback_tokens);
  add_count(json, "moe/nonfinite_slots", routing.nonfinite_slots);
  add_sum(json, "moe/dispatch_ms", routing.dispatch_ms);
  add_sum(json, "moe/experts_ms", routing.experts_ms);
  add_sum(json, "moe/combine_ms", routing.combine_ms);
  add_extreme(json, "moe/bias_min", routing.bias_min, Worst::kSmallest);
  add_extreme(json, "moe/bias_max", routing.bias_max, Worst::kLargest);
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

const RuleLoss& RoutingMetrics::loss(BalanceRule rule) const {
  return *std::find_if(losses.begin(), losses.end(), [rule](const RuleLoss& each) { return each.rule == rule; });
}

RoutingMetrics routing_metrics(const at::Tensor& load, int64_t first_layer) {
  RoutingMetrics metrics;
  const int64_t experts = load.size(1);
  for (int64_t layer = 0; layer < load.size(0); ++layer) {
    const int64_t* counts = load.const_data_ptr<int64_t>() + layer * experts;
    const std::vector<int64_t> of_layer(counts, counts + experts);
    const auto dead = static_cast<double>(idle_experts(of_layer));
    metrics.layers.push_back(first_layer + layer);
    metrics.load.push_back(of_layer);
    metrics.maxvio.push_back(maxvio(of_layer));
    metrics.entropy.push_back(load_entropy(of_layer));
    metrics.utilization.push_back(1.0 - dead / static_cast<double>(experts));
    metrics.dead_experts.push_back(dead);
  }
  return metrics;
}

namespace {

Json json_of(const StepRecord& record) {
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
  if (record.learned_tokens) json["learned_tokens"] = *record.learned_tokens;
  if (!record.epochs.empty()) json["data/epochs"] = rounded(record.epochs);
  json["step_seconds"] = record.step_seconds;
  json["forward_ms"] = record.forward_ms;
  json["backward_ms"] = record.backward_ms;
  json["gradients_ms"] = record.gradients_ms;
  json["tokens_per_second"] = record.tokens_per_second;
  json["mfu"] = record.mfu ? Json(*record.mfu) : Json();
  json["mfu_torchtitan"] = record.mfu_torchtitan ? Json(*record.mfu_torchtitan) : Json();
  json["memory_bytes"] = record.memory_bytes;
  json["activation_bytes"] = record.activation_bytes ? Json(*record.activation_bytes) : Json();
  if (record.routing) add_routing(json, *record.routing);
  if (!record.alarms.empty()) json["alarms"] = record.alarms;
  if (record.adaptive) add_adaptive(json, *record.adaptive);
  return json;
}

}  // namespace

std::string to_json(const StepRecord& record) { return json_of(record).dump(); }

Scalars to_scalars(const StepRecord& record) {
  const Json json = json_of(record);
  Scalars scalars;
  for (const auto& [key, value] : json.items()) {
    if (key == "step") continue;
    if (value.is_number()) scalars.emplace_back(key, value.get<double>());
    if (value.is_boolean()) scalars.emplace_back(key, value.get<bool>() ? 1.0 : 0.0);
  }
  return scalars;
}

std::vector<std::string> metric_names() {
  StepRecord record;
  record.validation_loss = 0.0;
  record.learned_tokens = 0;
  record.mfu = record.mfu_torchtitan = 0.0;
  const std::vector<double> one = {0.0};
  record.routing.emplace();
  RoutingMetrics& routing = *record.routing;
  routing.layers = {0};
  routing.load = {{1}};
  for (auto* values :
       {&routing.maxvio, &routing.maxvio_rank, &routing.entropy, &routing.utilization, &routing.dead_experts, &routing.scaled_loss,
        &routing.dropped_fraction, &routing.fallback_tokens, &routing.nonfinite_slots, &routing.dispatch_ms, &routing.experts_ms,
        &routing.combine_ms, &routing.gate_confidence, &routing.bias_min, &routing.bias_max}) {
    *values = one;
  }
  for (const BalanceRule rule : {BalanceRule::kSwitch, BalanceRule::kZ, BalanceRule::kStep, BalanceRule::kSequence, BalanceRule::kLocal}) {
    routing.losses.push_back({rule, one, one});
  }
  record.adaptive.emplace().bias_rate = one;
  std::vector<std::string> names;
  for (const auto& [name, value] : to_scalars(record)) names.push_back(name);
  return names;
}

std::string to_line(const StepRecord& record, int64_t steps, double seconds_left) {
  const std::string last = concat(steps);
  const std::string step = concat(record.step);
  std::string line = concat("step ", std::string(last.size() - std::min(last.size(), step.size()), ' '), step, "/", last, "  loss ",
                            fixed(record.loss, 4));
  if (record.validation_loss) line += concat("  val ", fixed(*record.validation_loss, 4));
  if (record.routing) line += concat("  bal ", fixed(mean(record.routing->loss(BalanceRule::kSwitch).unscaled), 3));
  line += concat("  norm ", fixed(record.gradient_norm, 3), "  lr ", scientific(record.learning_rate, 1));
  if (record.loss_scale != 1.0) line += concat("  scale ", record.loss_scale);
  line += concat("  ", grouped(static_cast<int64_t>(record.tokens_per_second)), " tok/s");
  if (record.mfu) line += concat("  ", fixed(*record.mfu * 100, 1), " % MFU");
  if (record.routing) {
    const auto& maxvio = record.routing->maxvio;
    const auto worst = std::max_element(maxvio.begin(), maxvio.end());
    line += concat("  maxvio ", fixed(mean(maxvio), 2), " (worst layer ",
                   record.routing->layers[static_cast<size_t>(worst - maxvio.begin())], ": ", fixed(*worst, 2), ")");
  }
  line += concat("  ", human_bytes(static_cast<double>(record.memory_bytes)));
  if (record.activation_bytes) line += concat(" (activations ", human_bytes(static_cast<double>(*record.activation_bytes)), ")");
  switch (record.outcome) {
    case StepOutcome::kTaken: break;
    case StepOutcome::kNotFinite:
      line += std::isfinite(record.loss) ? "  SKIPPED: gradients not finite" : "  SKIPPED: loss not finite";
      break;
    case StepOutcome::kSpike: line += "  SKIPPED: spike"; break;
  }
  return line + concat("  left ", human_duration(seconds_left));
}

}  // namespace pimoe
