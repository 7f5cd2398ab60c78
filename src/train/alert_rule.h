#pragma once

/// The condition of an alert, as a user writes it (`monitor.alerts`):
///
///     METRIC > NUMBER [for N steps|seconds|minutes] [until < NUMBER]        also: >= < <=
///     METRIC is not finite [for ...]
///
/// METRIC is a name of the values that are observed, or one of the words of metric_words.h.

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

/// The values that conditions can be about.
struct AlertMetrics {
  std::vector<std::string> names;
  std::string page;  ///< of the documentation, that says what they are
};

/// @param text  the condition  @throws Error: what is wrong with the text, and what would be right
AlertRule parse_alert_rule(const std::string& text, const AlertMetrics& known);

/// @returns the key that a word stands for (metric_words.h), and any other word as it is
std::string metric_of_word(const std::string& word);

/// One rule over time. Where the metric has no value, as a validation loss in most steps, nothing changes; nor where it is NaN, but for `is not finite`: what
/// is no number is no sign that a bound is kept again.
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
