#pragma once

#include "base/config_fields.h"
#include "train/alert_rule.h"

#include <string>
#include <vector>

namespace pimoe {

/// An element of `monitor.alerts`.
struct AlertConfig {
  std::string when;                            ///< the condition (alert_rule.h)
  std::vector<std::string> actions = {"log"};  ///< `do`: of kAlertActions

  void fields(FieldVisitor& visit);
  bool does(const std::string& action) const;
};

/// log: a warning; file: a line of RUN/alerts.jsonl; webhook: a POST to monitor.webhook; stop: the run saves and leaves with exit code 1.
inline const std::vector<std::string> kAlertActions = {"log", "file", "webhook", "stop"};

/// @returns the rules, in their order. @throws Error where one cannot be read
std::vector<AlertRule> alert_rules(const std::vector<AlertConfig>& alerts, const AlertMetrics& known);

/// Adds what is wrong with the alerts. @param key  of the list @param webhook  where they are sent; empty: nowhere
void check_alerts(const std::vector<AlertConfig>& alerts, const std::string& key, const std::string& webhook, const AlertMetrics& known,
                  Violations& violations);

}  // namespace pimoe
