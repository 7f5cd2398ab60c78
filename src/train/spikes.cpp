#include "train/spikes.h"

#include "base/text.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pimoe {
namespace {

constexpr const char* kPrefix = "spikes.";

/// Calls `each` with every key and number of the two averages.
template <class Usual, class Each>
void each_number(Usual& loss, Usual& norm, const Each& each) {
  const auto visit = [&each](const std::string& name, auto& usual) {
    each(concat(kPrefix, name, ".mean"), usual.mean);
    each(concat(kPrefix, name, ".variance"), usual.variance);
    each(concat(kPrefix, name, ".count"), usual.count);
  };
  visit("loss", loss);
  visit("norm", norm);
}

}  // namespace

void SpikeConfig::fields(FieldVisitor& visit) {
  visit.choice("action", action, {{"off", OnSpike::kOff}, {"report", OnSpike::kReport}, {"skip", OnSpike::kSkip}},
               "a step whose loss or gradient norm is far above those before: raise an alarm, or also leave the weights as they are");
  visit.number("sigma", sigma, {.above = 0}, "standard deviations above the mean from which a value is a spike");
  visit.integer("window", window, {.at_least = 2, .at_most = kMostSteps},
                "steps that mean and deviation remember, and that are watched before the first spike can be told");
}

double SpikeWatch::bound(const Usual& usual) const {
  if (usual.count < static_cast<double>(config_.window)) return std::numeric_limits<double>::infinity();
  return usual.mean + config_.sigma * std::sqrt(usual.variance);
}

std::string SpikeWatch::spike_of(const char* what, double value, const Usual& usual) const {
  if (!(value > bound(usual))) return "";
  const double deviation = std::sqrt(usual.variance);
  return concat(what, " ", fixed(value, 4), " is ",
                deviation > 0 ? concat(fixed((value - usual.mean) / deviation, 1), " standard deviations above the mean ")
                              : std::string("above what never changed, "),
                fixed(usual.mean, 4), " of the last ", config_.window, " steps");
}

std::string SpikeWatch::spike(double loss, double gradient_norm) const {
  if (config_.action == OnSpike::kOff) return "";
  const std::string of_loss = spike_of("loss", loss, loss_);
  const std::string of_norm = spike_of("gradient norm", gradient_norm, norm_);
  return concat(of_loss, of_loss.empty() || of_norm.empty() ? "" : ", ", of_norm);
}

void SpikeWatch::take(double loss, double gradient_norm) {
  const auto add = [this](Usual& usual, double value) {
    const double apart = std::min(value, bound(usual)) - usual.mean;
    usual.count += 1;
    const double share = std::max(1.0 / usual.count, 2.0 / (static_cast<double>(config_.window) + 1));
    usual.mean += share * apart;
    usual.variance = (1 - share) * (usual.variance + share * apart * apart);
  };
  add(loss_, loss);
  add(norm_, gradient_norm);
}

std::map<std::string, double> SpikeWatch::state() const {
  std::map<std::string, double> numbers;
  each_number(loss_, norm_, [&numbers](const std::string& key, double value) { numbers[key] = value; });
  return numbers;
}

bool SpikeWatch::is_state(const std::string& key) { return key.starts_with(kPrefix); }

void SpikeWatch::restore(const std::map<std::string, double>& numbers) {
  *this = SpikeWatch(config_);
  each_number(loss_, norm_, [&numbers](const std::string& key, double& value) {
    if (const auto found = numbers.find(key); found != numbers.end()) value = found->second;
  });
}

}  // namespace pimoe
