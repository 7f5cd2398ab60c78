#include "train/alerts.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/host.h"
#include "base/strict_json.h"
#include "base/text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

constexpr uint64_t kMostStateBytes = 1 << 20;

std::string how_long(const AlertRule& rule) {
  if (rule.seconds > 0) return concat(" for ", human_duration(rule.seconds));
  return rule.steps > 1 ? concat(" for ", rule.steps, " steps") : "";
}

}  // namespace

Alerts::Alerts(std::vector<AlertConfig> alerts, AlertPlaces places, const AlertMetrics& known, Logger& log)
    : alerts_(std::move(alerts)),
      rules_(alert_rules(alerts_, known)),
      states_(rules_.size()),
      places_(std::move(places)),
      log_(log),
      lines_(places_.lines) {
  if (std::any_of(alerts_.begin(), alerts_.end(), [](const AlertConfig& alert) { return alert.does("webhook"); })) {
    webhook_ = std::make_unique<Webhook>(places_.webhook, places_.unsent, log_);
  }
  try {
    if (places_.state.empty() || !is_there(places_.state)) return;
    const nlohmann::ordered_json state = read_strict_json(places_.state, kMostStateBytes);
    for (const auto& entry : state.at("firing")) {
      const auto text = entry.get<std::string>();
      for (size_t i = 0; i < rules_.size(); ++i) {
        if (rules_[i].text == text) states_[i].restore(/*is_firing=*/true);
      }
    }
  } catch (const std::exception& error) {  // damage is no reason to end a run: alerts that last are told of once more
    log_.warning(concat(error.what(), ": alerts that were told of before may be told of again"));
  }
}

std::vector<Alerts::Change> Alerts::observe(int64_t step, double seconds, const Scalars& values) {
  std::vector<Change> changes;
  for (size_t i = 0; i < rules_.size(); ++i) {
    const auto found = std::find_if(values.begin(), values.end(), [&](const auto& value) { return value.first == rules_[i].metric; });
    if (found == values.end() || !states_[i].observe(rules_[i], found->second, seconds)) continue;
    Change change{.fired = states_[i].is_firing(), .rule = rules_[i].text, .value = found->second, .text = ""};
    change.text = concat("alert ", change.fired ? "fired" : "cleared", " at ", places_.unit, " ", step, ": ", rules_[i].text, " (",
                         rules_[i].metric, " is ", std::isnan(found->second) ? "nan" : concat(found->second),
                         change.fired ? "" : concat(": over", how_long(rules_[i])), ")");
    tell(i, step, change);
    if (change.fired && alerts_[i].does("stop")) stops_ = true;
    changes.push_back(std::move(change));
  }
  if (!changes.empty()) keep_state();
  return changes;
}

void Alerts::tell(size_t index, int64_t step, const Change& change) {
  const AlertConfig& alert = alerts_[index];
  if (alert.does("log")) {
    if (change.fired) {
      log_.warning(change.text);
    } else {
      log_.info(change.text);
    }
  }
  const nlohmann::ordered_json value = std::isfinite(change.value) ? nlohmann::ordered_json(change.value) : nlohmann::ordered_json();
  const std::string line = nlohmann::ordered_json({{"time", wall_clock_seconds()},
                                                   {"source", places_.source},
                                                   {"step", step},
                                                   {"state", change.fired ? "firing" : "cleared"},
                                                   {"rule", change.rule},
                                                   {"metric", rules_[index].metric},
                                                   {"value", value},
                                                   {"text", concat(places_.source, ": ", change.text)}})
                               .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  if (alert.does("file")) {
    if (const std::string trouble = lines_.append(line + "\n"); !trouble.empty())
      log_.warning(concat(trouble, ": an alert is not in it yet"));
  }
  if (alert.does("webhook")) webhook_->send(line);
}

void Alerts::keep_state() {
  if (places_.state.empty()) return;
  try {
    replace_file(places_.state, nlohmann::ordered_json({{"firing", firing()}}).dump() + "\n");
  } catch (const IoError& error) {
    log_.warning(concat(error.what(), ": after a restart alerts that last are told of once more"));
  }
}

std::vector<std::string> Alerts::firing() const {
  std::vector<std::string> texts;
  for (size_t i = 0; i < rules_.size(); ++i) {
    if (states_[i].is_firing()) texts.push_back(rules_[i].text);
  }
  return texts;
}

std::vector<std::pair<std::string, bool>> Alerts::states() const {
  std::vector<std::pair<std::string, bool>> all;
  for (size_t i = 0; i < rules_.size(); ++i) all.emplace_back(rules_[i].text, states_[i].is_firing());
  return all;
}

}  // namespace pimoe
