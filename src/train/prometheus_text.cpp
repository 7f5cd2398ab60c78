#include "train/prometheus_text.h"

#include "base/text.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace pimoe {
namespace {

struct Gauge {
  const char* key;  ///< of metrics.jsonl
  const char* name;
  const char* help;
  double unit = 1.0;  ///< Prometheus counts in seconds
};

constexpr std::array kGauges = {
    Gauge{"loss", "pimoe_loss_nats", "Mean cross-entropy of a token in the step"},
    Gauge{"grad_norm", "pimoe_gradient_norm", "Global norm of the gradients before clipping"},
    Gauge{"learning_rate", "pimoe_learning_rate", "Learning rate of the step"},
    Gauge{"loss_scale", "pimoe_loss_scale", "Scale of the loss; 1 but for float16"},
    Gauge{"step_seconds", "pimoe_step_seconds", "Wall clock of the step"},
    Gauge{"forward_ms", "pimoe_forward_seconds", "Device time of rank 0 in the step's forward passes", 1e-3},
    Gauge{"backward_ms", "pimoe_backward_seconds", "Device time of rank 0 in the step's backward passes", 1e-3},
    Gauge{"gradients_ms", "pimoe_gradients_seconds", "Device time of rank 0 for gradient sums after backward", 1e-3},
    Gauge{"tokens_per_second", "pimoe_tokens_per_second", "Tokens a second over all ranks"},
    Gauge{"mfu", "pimoe_mfu_ratio", "Share of the devices' peak, by Megatron's count"},
    Gauge{"memory_bytes", "pimoe_memory_bytes", "Peak memory of rank 0"},
    Gauge{"moe/maxvio", "pimoe_moe_maxvio", "(largest - mean) / mean load of experts, mean over layers"},
    Gauge{"moe/maxvio_worst", "pimoe_moe_maxvio_worst", "The same of the worst layer"},
    Gauge{"moe/maxvio_rank_worst", "pimoe_moe_maxvio_rank_worst", "The same over the rows of ranks, of the worst layer"},
    Gauge{"moe/entropy", "pimoe_moe_entropy_ratio", "Entropy of the load over its largest value, mean over layers"},
    Gauge{"moe/balance_loss", "pimoe_moe_balance_loss", "Switch balance loss, unscaled, mean over layers"},
    Gauge{"moe/z_loss", "pimoe_moe_z_loss", "Router z-loss, unscaled, mean over layers"},
    Gauge{"moe/gate_confidence", "pimoe_moe_gate_confidence", "Mean of a token's largest gate"},
    Gauge{"moe/dead_experts", "pimoe_moe_dead_experts", "Experts without a slot in the step, over all layers"},
    Gauge{"moe/dropped_fraction", "pimoe_moe_dropped_ratio", "Dropped slots over all slots, mean over layers"},
    Gauge{"moe/fallback_tokens", "pimoe_moe_fallback_tokens", "Tokens of the step that no expert served"},
    Gauge{"moe/dispatch_ms", "pimoe_moe_dispatch_seconds", "Device time of rank 0's dispatch in forward passes", 1e-3},
    Gauge{"moe/experts_ms", "pimoe_moe_experts_seconds", "Device time of rank 0's experts in forward passes", 1e-3},
    Gauge{"moe/combine_ms", "pimoe_moe_combine_seconds", "Device time of rank 0's combine in forward passes", 1e-3},
};

std::string label_value(const std::string& text) {
  std::string safe;
  for (const char letter : text) {
    if (letter == '\\' || letter == '"' || letter == '\n') safe += '\\';
    safe += letter == '\n' ? 'n' : letter;
  }
  return safe;
}

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.17g", value);
  return text.data();
}

class Exposition {
 public:
  explicit Exposition(const std::string& run) : run_(label_value(run)) {}

  void head(const char* name, const char* type, const char* help) {
    text_ += concat("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
  }
  /// @param labels  further ones: ",layer=\"3\""
  void sample(const char* name, double value, const std::string& labels = "") {
    text_ += concat(name, "{run=\"", run_, "\"", labels, "} ", number(value), "\n");
  }
  void only(const char* name, const char* type, const char* help, double value) {
    head(name, type, help);
    sample(name, value);
  }
  void layers(const char* name, const char* help, const std::vector<int64_t>& layers, const std::vector<double>& values) {
    head(name, "gauge", help);
    for (size_t index = 0; index < layers.size(); ++index) sample(name, values[index], concat(",layer=\"", layers[index], "\""));
  }
  std::string take() { return std::move(text_); }

 private:
  std::string run_;
  std::string text_;
};

}  // namespace

std::string to_prometheus(const StepRecord& record, const PrometheusFacts& facts) {
  Exposition text(facts.run);
  text.only("pimoe_step", "gauge", "Optimizer steps done", static_cast<double>(record.step));
  text.only("pimoe_steps_planned", "gauge", "Steps that the run is to do", static_cast<double>(facts.steps));
  text.only("pimoe_ranks", "gauge", "Ranks of the job", static_cast<double>(facts.ranks));
  text.only("pimoe_record_timestamp_seconds", "gauge", "When the newest step was done: what stands still is a run that does", facts.time);
  text.only("pimoe_tokens_total", "counter", "Tokens seen by the run", static_cast<double>(record.tokens));
  text.only("pimoe_skipped_steps_total", "counter", "Steps of this process that were skipped", static_cast<double>(facts.skipped));
  text.only("pimoe_alarms_total", "counter", "Alarms of this process", static_cast<double>(facts.alarms));
  if (!facts.alerts.empty()) {
    text.head("pimoe_alert_firing", "gauge", "Whether an alert of monitor.alerts is firing");
    for (const auto& [rule, fires] : facts.alerts)
      text.sample("pimoe_alert_firing", fires ? 1.0 : 0.0, concat(",rule=\"", label_value(rule), "\""));
  }
  const Scalars scalars = to_scalars(record);
  for (const Gauge& gauge : kGauges) {
    for (const auto& [key, value] : scalars) {
      if (key == gauge.key) text.only(gauge.name, "gauge", gauge.help, value * gauge.unit);
    }
  }
  if (record.validation_loss) {
    text.only("pimoe_validation_loss_nats", "gauge", "Mean cross-entropy of a token over the validation corpus, of the newest validation",
              *record.validation_loss);
  }
  if (record.routing) {
    text.layers("pimoe_moe_layer_maxvio", "MaxVio of each layer", record.routing->layers, record.routing->maxvio);
    text.layers("pimoe_moe_layer_dead_experts", "Experts of each layer without a slot in the step", record.routing->layers,
                record.routing->dead_experts);
  }
  return text.take();
}

}  // namespace pimoe
