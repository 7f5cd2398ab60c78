#include "train/alert_config.h"

#include "base/errors.h"
#include "base/text.h"
#include "train/webhook.h"

#include <algorithm>
#include <map>

namespace pimoe {

void AlertConfig::fields(FieldVisitor& visit) {
  visit.text("when", when, "METRIC > NUMBER, such as 'memory > 7e10 for 50 steps until < 6e10'; or 'METRIC is not finite'");
  visit.word_list("do", actions, kAlertActions,
                  "what is done once when it begins and once when it is over; stop: save and leave with exit code 1");
}

bool AlertConfig::does(const std::string& action) const { return std::find(actions.begin(), actions.end(), action) != actions.end(); }

std::vector<AlertRule> alert_rules(const std::vector<AlertConfig>& alerts, const AlertMetrics& known) {
  std::vector<AlertRule> rules;
  for (const AlertConfig& alert : alerts) rules.push_back(parse_alert_rule(alert.when, known));
  return rules;
}

void check_alerts(const std::vector<AlertConfig>& alerts, const std::string& key, const std::string& webhook, const AlertMetrics& known,
                  Violations& violations) {
  std::map<std::string, size_t> earlier;
  for (size_t i = 0; i < alerts.size(); ++i) {
    const std::string element = concat(key, "[", i, "]");
    try {
      parse_alert_rule(alerts[i].when, known);
    } catch (const Error& error) {  // the contract
      violations.add(element + ".when", concat("('", alerts[i].when, "') ", error.what()));
    }
    const auto [found, is_new] = earlier.emplace(alerts[i].when, i);
    if (!is_new) violations.add(element + ".when", concat("('", alerts[i].when, "') is ", key, "[", found->second, "] already"));
    if (alerts[i].actions.empty()) violations.add(element + ".do", concat("must have one at least of ", join(kAlertActions, ", ")));
    if (alerts[i].does("webhook") && webhook.empty()) {
      violations.add(element + ".do", "has webhook, for which monitor.webhook must say where: https://...");
    }
  }
  if (!webhook.empty()) {
    if (const std::string trouble = webhook_trouble(webhook); !trouble.empty()) violations.add("monitor.webhook", trouble);
  }
}

}  // namespace pimoe
