#pragma once

/// The condition of an alert, as a user writes it (`monitor.alerts`):
///
///     METRIC > NUMBER [for N steps|seconds|minutes] [until < NUMBER]        also: >= < <=
///     METRIC is not finite [for ...]
///
/// METRIC is a key of metrics.jsonl, or one of the words latency, throughput, memory, expert_utilization.

#include "train/scalars.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

enum class Comparison : uint8_t { kAbove, kAtLeast, kBelow, kAtMost, kNotFinite };

/// One side of a threshold.
struct Threshold {
  Comparison comparison = Comparison::kAbove;
  double bound = 0.0;

  /// Whether `value` is on that side. What is not finite is on no side of a number, but for an infinity where that is meant.
  bool holds(double value) const;
};

struct AlertRule {
  std::string text;    ///< as it was written
  std::string metric;  ///< a name of the values that are observed
  Threshold fires;
  std::optional<Threshold> clears;  ///< nothing: where `fires` does not hold
  int64_t steps = 1;                ///< in a row for which it must hold before the alert fires, and its end before it clears
  double seconds = 0.0;             ///< likewise; with it `steps` is 1
};

/// @param text   the condition
/// @param known  names of values that there can be  @throws Error: what is wrong with the text, and what would be right
AlertRule parse_alert_rule(const std::string& text, const std::vector<std::string>& known);

/// A word of the four that stand for a key of metrics.jsonl, and the key; the word itself for any other.
std::string metric_of_word(const std::string& word);

/// Something that a rule has to say: once when it fires, and once when it is over.
struct AlertChange {
  size_t rule = 0;
  bool fired = false;  ///< or cleared
  double value = 0.0;  ///< of the metric
};

/// One rule over time. Where the metric has no value, as a validation loss in most steps, nothing changes.
class AlertState {
 public:
  /// @param seconds  on a clock that only rises  @returns true when the alert fires or clears now
  bool observe(const AlertRule& rule, double value, double seconds);
  bool is_firing() const { return is_firing_; }
  void restore(bool is_firing) { is_firing_ = is_firing; }

 private:
  bool is_firing_ = false;
  int64_t held_ = 0;                                         ///< observations in a row of what would change the state
  double since_ = -std::numeric_limits<double>::infinity();  ///< the first of them
};

}  // namespace pimoe
