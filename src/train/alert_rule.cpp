#include "train/alert_rule.h"

#include "base/errors.h"
#include "base/text.h"
#include "train/metric_words.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

namespace pimoe {
namespace {

constexpr const char* kForm = "METRIC > NUMBER [for N steps|seconds|minutes] [until < NUMBER], or METRIC is not finite [for ...]";

/// The words of a condition, one after the other.
class Words {
 public:
  explicit Words(const std::string& text) {
    std::istringstream in(text);
    for (std::string word; in >> word;) words_.push_back(word);
  }
  bool at_end() const { return next_ == words_.size(); }
  const std::string& peek() const { return at_end() ? none_ : words_[next_]; }
  std::string take() { return at_end() ? none_ : words_[next_++]; }
  bool take_if(const std::string& word) {
    if (peek() != word) return false;
    ++next_;
    return true;
  }

 private:
  const std::string none_;
  std::vector<std::string> words_;
  size_t next_ = 0;
};

std::optional<double> number_in(const std::string& text) {
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

Threshold take_threshold(Words& words) {
  const std::string sign = words.take();
  Threshold threshold;
  if (sign == ">") {
    threshold.comparison = Comparison::kAbove;
  } else if (sign == ">=") {
    threshold.comparison = Comparison::kAtLeast;
  } else if (sign == "<") {
    threshold.comparison = Comparison::kBelow;
  } else if (sign == "<=") {
    threshold.comparison = Comparison::kAtMost;
  } else {
    throw Error(concat("has '", sign, "' where one of > >= < <= must stand: ", kForm));
  }
  const std::string text = words.take();
  const std::optional<double> bound = number_in(text);
  if (!bound) throw Error(concat("has '", text, "' where a number must stand: ", kForm));
  threshold.bound = *bound;
  return threshold;
}

void take_duration(Words& words, AlertRule& rule) {
  const std::string count = words.take();
  const std::string unit = words.take();
  const std::optional<double> number = number_in(count);
  const bool in_steps = unit == "step" || unit == "steps";
  const double seconds = unit == "second" || unit == "seconds" ? 1.0 : unit == "minute" || unit == "minutes" ? 60.0 : 0.0;
  if (!number || *number <= 0 || (!in_steps && seconds == 0.0)) {
    throw Error(
        concat("has 'for ", count, " ", unit, "' where it must be a positive number of steps, seconds or minutes, as in 'for 50 steps'"));
  }
  if (!in_steps) {
    rule.seconds = *number * seconds;
  } else if (*number != std::floor(*number) || *number > 1e12) {
    throw Error(concat("has 'for ", count, " steps', which must be a whole number of at most 1e12"));
  } else {
    rule.steps = static_cast<int64_t>(*number);
  }
}

bool is_rising(Comparison comparison) { return comparison == Comparison::kAbove || comparison == Comparison::kAtLeast; }

}  // namespace

std::string metric_of_word(const std::string& word) {
  const auto* const found =
      std::find_if(kMetricWords.begin(), kMetricWords.end(), [&](const MetricWord& each) { return word == each.word; });
  return found == kMetricWords.end() ? word : found->key;
}

bool Threshold::holds(double value) const {
  switch (comparison) {
    case Comparison::kAbove: return value > bound;
    case Comparison::kAtLeast: return value >= bound;
    case Comparison::kBelow: return value < bound;
    case Comparison::kAtMost: return value <= bound;
    case Comparison::kNotFinite: return !std::isfinite(value);
  }
  return false;
}

AlertRule parse_alert_rule(const std::string& text, const AlertMetrics& known) {
  Words words(text);
  AlertRule rule;
  rule.text = text;
  const std::string metric = words.take();
  if (metric.empty()) throw Error(concat("must not be empty: ", kForm));
  rule.metric = metric_of_word(metric);
  if (std::find(known.names.begin(), known.names.end(), rule.metric) == known.names.end()) {
    std::vector<std::string> names = known.names;
    for (const MetricWord& each : kMetricWords) names.emplace_back(each.word);
    const std::string nearest = nearest_name(metric, names);
    throw Error(concat("names the metric '", metric, "', which there is not",
                       nearest.empty() ? concat("; ", known.page, " has all") : concat("; did you mean ", nearest, "?")));
  }
  if (words.take_if("is")) {
    if (!words.take_if("not") || !words.take_if("finite")) throw Error(concat("must go on with 'is not finite': ", kForm));
    rule.fires.comparison = Comparison::kNotFinite;
  } else {
    rule.fires = take_threshold(words);
  }
  if (words.take_if("for")) take_duration(words, rule);
  if (words.take_if("until")) {
    if (rule.fires.comparison == Comparison::kNotFinite)
      throw Error("has 'until', which goes with a number: what is not finite is over once it is");
    rule.clears = take_threshold(words);
    const bool rising = is_rising(rule.fires.comparison);
    const bool apart = rising ? rule.clears->bound <= rule.fires.bound : rule.clears->bound >= rule.fires.bound;
    if (is_rising(rule.clears->comparison) == rising || !apart) {
      throw Error(concat("must end on the other side of its bound, as in '", metric, " > 2 until < 1.5'"));
    }
  }
  if (!words.at_end()) throw Error(concat("has '", words.peek(), "' behind its end: ", kForm));
  return rule;
}

bool AlertState::observe(const AlertRule& rule, double value, double seconds) {
  if (std::isnan(value) && rule.fires.comparison != Comparison::kNotFinite) return false;
  const bool fires = rule.fires.holds(value);
  const bool clears = rule.clears ? rule.clears->holds(value) : !fires;
  if (is_firing_ ? !clears : !fires) {
    held_ = 0;
    return false;
  }
  if (held_++ == 0) since_ = seconds;
  if (held_ < rule.steps || seconds - since_ < rule.seconds) return false;
  is_firing_ = !is_firing_;
  held_ = 0;
  return true;
}

}  // namespace pimoe
