#include "moe/adaptive_control.h"

#include "base/text.h"
#include "moe/saved_numbers.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pimoe {
namespace {

constexpr double kFactor = 2.0;  // of the bias rate and of the Switch coefficient
constexpr double kTemperatureFactor = 1.25;
constexpr double kMemory = 0.7;                 // weight of a step's errors a step later
constexpr double kProof = 2.0;                  // steps that a move of the bias rate is judged by
constexpr double kLasting = 0.5;                // of the error of a step that is left in the next: half way between lasting and noise
constexpr double kAlternating = -0.05;          // a monopoly that goes round six experts shows -0.2, noise 0
constexpr double kLeastSwitchShare = 1.0 / 16;  // of its bound: the first coefficient that control tries where 0 is configured
constexpr double kCommonPatience = 4.0;         // looks
constexpr double kMostPatience = 64.0;          // looks
constexpr double kBetter = 0.9;                 // a look that is a tenth below the one before got better
constexpr const char* kPrefix = "adaptive.";
constexpr const char* kTemperature = "adaptive.temperature";
constexpr const char* kSwitchLoss = "Switch loss coefficient";  // in moves
constexpr const char* kTemperatureName = "temperature";

}  // namespace

AdaptiveControl::AdaptiveControl(const AdaptiveConfig& config, const AdaptiveSettings& configured, const MoeLayers& layers)
    : config_(config),
      configured_(configured),
      experts_(layers.experts),
      first_layer_(layers.first),
      chance_(std::sqrt(2.0 * std::log(static_cast<double>(std::max<int64_t>(1, layers.experts))))),
      layers_(static_cast<size_t>(layers.count)) {
  configured_.bias_rate.resize(layers_.size(), configured.bias_rate.empty() ? 0.0 : configured.bias_rate.front());
  if (config_.enabled) {
    for (double& rate : configured_.bias_rate) rate = bounded_rate(config_.bias_rate_start);
  }
  settings_ = configured_;
  for (Layer& layer : layers_) layer.error.assign(static_cast<size_t>(experts_), 0.0);
  patience_.needed = kCommonPatience;
}

void AdaptiveControl::Patience::raised() {
  if (gave_way != 0) needed = std::min(2 * needed, kMostPatience);
  gave_way = met = 0;
}

void AdaptiveControl::Patience::gave_back() {
  gave_way = 1;
  met = 0;
}

double AdaptiveControl::bounded_rate(double rate) const { return std::min(std::max(rate, config_.bias_rate_min), config_.bias_rate_max); }

double AdaptiveControl::target_for(double mean_load) const { return std::max(config_.target_maxvio, chance_ / std::sqrt(mean_load)); }

std::vector<AdaptiveMove> AdaptiveControl::observe(int64_t step, const std::vector<std::vector<int64_t>>& load) {
  std::vector<AdaptiveMove> moves;
  if (!config_.enabled || layers_.empty()) return moves;
  const double slots = static_cast<double>(std::accumulate(load[0].begin(), load[0].end(), int64_t{0}));
  if (slots == 0) return moves;  // of a step without a token there is nothing to learn
  for (const Bounded& each : bounded_) {
    moves.push_back({each.layer, each.from, each.to,
                     concat("step ", step, ": ", each.setting, " ", each.from, " -> ", each.to,
                            ": the run was resumed with bounds (model.moe.adaptive) that the setting was outside of")});
  }
  bounded_.clear();
  ++look_steps_;
  look_target_ += target_for(slots / static_cast<double>(experts_));
  for (size_t index = 0; index < layers_.size(); ++index) steer_bias(step, static_cast<int64_t>(index), load[index], moves);
  if (look_steps_ >= static_cast<double>(config_.window)) look(step, moves);
  return moves;
}

void AdaptiveControl::steer_bias(int64_t step, int64_t index, const std::vector<int64_t>& load, std::vector<AdaptiveMove>& moves) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  const double total = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
  const double mean = total / static_cast<double>(experts_);
  const double violation = maxvio(load);
  const double target = target_for(mean);

  layer.look_maxvio += violation;
  const bool first = layer.fullest < 0;
  layer.fullest = static_cast<double>(std::max_element(load.begin(), load.end()) - load.begin());
  double product = 0.0;
  double square = 0.0;
  for (size_t expert = 0; expert < load.size(); ++expert) {
    const double error = (mean - static_cast<double>(load[expert])) / mean;
    product += error * layer.error[expert];
    square += layer.error[expert] * layer.error[expert];
    layer.error[expert] = error;
  }
  if (first) return;
  ++layer.steps;
  layer.product = kMemory * layer.product + product;
  layer.square = kMemory * layer.square + square;
  if (layer.steps < kProof || violation <= target || layer.square == 0) return;
  const double left = layer.product / layer.square;
  const std::string seen_so_far = concat("MaxVio ", fixed(violation, 2), ", target ", fixed(target, 2), "; ");
  const double rate = settings_.bias_rate[static_cast<size_t>(index)];
  if (left > kLasting) {
    move_bias(step, index, rate * kFactor, concat(seen_so_far, fixed(100 * left, 0), " % of a step's imbalance is left in the next"),
              moves);
  } else if (left < kAlternating) {
    move_bias(step, index, rate / kFactor, concat(seen_so_far, "imbalance alternates from step to step: the bias goes too far"), moves);
  }
}

void AdaptiveControl::look(int64_t step, std::vector<AdaptiveMove>& moves) {
  double sum = 0.0;
  for (Layer& layer : layers_) {
    sum += layer.look_maxvio / look_steps_;
    layer.look_maxvio = 0;
  }
  look_at_common(step, sum / static_cast<double>(layers_.size()), moves);
  look_steps_ = look_target_ = 0;
}

void AdaptiveControl::look_at_common(int64_t step, double mean_maxvio, std::vector<AdaptiveMove>& moves) {
  const double target = look_target_ / look_steps_;
  const bool met = mean_maxvio <= target;
  const bool better = last_maxvio_ > 0 && mean_maxvio < kBetter * last_maxvio_;
  last_maxvio_ = mean_maxvio;
  patience_.met = met ? patience_.met + 1 : 0;
  missed_ = met || better ? 0 : missed_ + 1;

  const double most_switch = std::max(config_.switch_loss_max, configured_.switch_loss);
  const double least_switch = most_switch * kLeastSwitchShare;
  const double most_temperature = std::max(config_.temperature_max, configured_.temperature);
  if (missed_ >= kCommonPatience) {
    const std::string reason = concat("mean MaxVio ", fixed(mean_maxvio, 2), " after ", missed_, " looks of ", look_steps_,
                                      " steps that did not get better, target ", fixed(target, 2));
    if (settings_.switch_loss < most_switch) {
      const double to = std::max(settings_.switch_loss * kFactor, least_switch);
      move_common(step, kSwitchLoss, settings_.switch_loss, std::min(to, most_switch), reason, moves);
    } else if (settings_.temperature < most_temperature) {
      move_common(step, kTemperatureName, settings_.temperature, std::min(settings_.temperature * kTemperatureFactor, most_temperature),
                  reason, moves);
    } else {
      return;
    }
    patience_.raised();
    missed_ = 0;
  } else if (patience_.met >= patience_.needed) {
    const std::string reason = concat("mean MaxVio ", fixed(mean_maxvio, 2), ", ", patience_.met, " looks of ", look_steps_,
                                      " steps met the target ", fixed(target, 2));
    if (settings_.temperature > configured_.temperature) {
      move_common(step, kTemperatureName, settings_.temperature,
                  std::max(settings_.temperature / kTemperatureFactor, configured_.temperature), reason, moves);
    } else if (settings_.switch_loss > configured_.switch_loss) {
      const double to = settings_.switch_loss / kFactor;
      move_common(step, kSwitchLoss, settings_.switch_loss,
                  to < least_switch ? configured_.switch_loss : std::max(to, configured_.switch_loss), reason, moves);
    } else {
      return;
    }
    patience_.gave_back();
  }
}

void AdaptiveControl::move_bias(int64_t step, int64_t index, double to, const std::string& reason, std::vector<AdaptiveMove>& moves) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  layer.steps = layer.product = layer.square = 0;
  double& rate = settings_.bias_rate[static_cast<size_t>(index)];
  to = bounded_rate(to);
  if (to == rate) return;
  moves.push_back({first_layer_ + index, rate, to,
                   concat("step ", step, ": bias rate of layer ", first_layer_ + index, " ", rate, " -> ", to, ": ", reason)});
  rate = to;
}

void AdaptiveControl::move_common(int64_t step, const char* name, double& setting, double to, const std::string& reason,
                                  std::vector<AdaptiveMove>& moves) {
  moves.push_back({-1, setting, to, concat("step ", step, ": ", name, " ", setting, " -> ", to, ": ", reason)});
  setting = to;
}

template <class Visit>
void AdaptiveControl::each_number(const Visit& visit) {
  visit("adaptive.switch_loss", settings_.switch_loss);
  visit(kTemperature, settings_.temperature);
  visit("adaptive.look_steps", look_steps_);
  visit("adaptive.look_target", look_target_);
  visit("adaptive.missed", missed_);
  visit("adaptive.last_maxvio", last_maxvio_);
  visit("adaptive.patience_needed", patience_.needed);
  visit("adaptive.patience_met", patience_.met);
  visit("adaptive.patience_gave_way", patience_.gave_way);
  for (size_t index = 0; index < layers_.size(); ++index) {
    Layer& layer = layers_[index];
    const std::string prefix = concat("adaptive.layers.", index, ".");
    visit(prefix + "bias_rate", settings_.bias_rate[index]);
    visit(prefix + "fullest", layer.fullest);
    visit(prefix + "steps", layer.steps);
    visit(prefix + "product", layer.product);
    visit(prefix + "square", layer.square);
    for (size_t expert = 0; expert < layer.error.size(); ++expert) visit(concat(prefix, "error.", expert), layer.error[expert]);
    visit(prefix + "look_maxvio", layer.look_maxvio);
  }
}

std::map<std::string, double> AdaptiveControl::state() const {
  AdaptiveControl copy = *this;  // it is small
  return numbers_of([&copy](const NumberVisitor& visit) { copy.each_number(visit); });
}

bool AdaptiveControl::is_state(const std::string& key) { return begins_with(key, kPrefix); }

std::optional<double> AdaptiveControl::temperature_in(const std::map<std::string, double>& numbers) {
  const auto found = numbers.find(kTemperature);
  return found == numbers.end() ? std::nullopt : std::optional(found->second);
}

bool AdaptiveControl::restore(const std::map<std::string, double>& numbers) {
  AdaptiveControl restored = *this;
  const NumberList list = [&restored](const NumberVisitor& visit) { restored.each_number(visit); };
  if (!take_numbers(list, kPrefix, "adaptive control", numbers)) return false;
  const auto bring = [&restored](double& value, double to, int64_t layer, const std::string& setting) {
    if (to != value) restored.bounded_.push_back({layer, setting, value, to});
    value = to;
  };
  for (size_t index = 0; index < layers_.size(); ++index) {
    double& rate = restored.settings_.bias_rate[index];
    const int64_t layer = first_layer_ + static_cast<int64_t>(index);
    bring(rate, bounded_rate(rate), layer, concat("bias rate of layer ", layer));
  }
  const auto bring_common = [&](double& value, double least, double most, const char* setting) {
    bring(value, std::min(std::max(value, least), std::max(least, most)), -1, setting);
  };
  bring_common(restored.settings_.switch_loss, configured_.switch_loss, config_.switch_loss_max, kSwitchLoss);
  bring_common(restored.settings_.temperature, configured_.temperature, config_.temperature_max, kTemperatureName);
  *this = restored;
  return true;
}

}  // namespace pimoe
