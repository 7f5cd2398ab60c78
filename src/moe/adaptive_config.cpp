#include "moe/adaptive_config.h"

#include "base/number_text.h"
#include "base/text.h"
#include "moe/balance_config.h"

namespace pimoe {

void AdaptiveConfig::fields(FieldVisitor& visit) {
  visit.flag("enabled", enabled, "move bias rate, Switch coefficient and temperature by the load that is measured");
  visit.integer("window", window, {.at_least = 1, .at_most = kMostSteps},
                "steps of a look: what is averaged before a setting goes back, and, in every run, before an alarm");
  visit.number("target_maxvio", target_maxvio, {.above = 0, .at_most = kMostCoefficient},
               "MaxVio to reach: (max load - mean load) / mean load");
  visit.number("bias_rate_start", bias_rate_start, {.above = 0, .at_most = kMostCoefficient},
               "first step of the loss-free bias of an expert whose load is off by the mean load");
  visit.number("bias_rate_min", bias_rate_min, {.above = 0, .at_most = kMostCoefficient}, "least step of the loss-free bias");
  visit.number("bias_rate_max", bias_rate_max, {.at_least = 0, .at_most = kMostCoefficient},
               "greatest step of the loss-free bias; 0: it is not used");
  visit.number("switch_loss_max", switch_loss_max, {.at_least = 0, .at_most = kMostCoefficient},
               "greatest coefficient of the Switch loss; at most the configured: it is not moved");
  visit.number("temperature_max", temperature_max, {.at_least = 0, .at_most = kMostCoefficient},
               "greatest router temperature; at most the configured: it is not moved");
  visit.number("collapse_entropy", collapse_entropy, {.at_least = 0, .at_most = 1},
               "alarm, in every run, below this (H(load) - ln K) / (ln E - ln K)");
}

void AdaptiveConfig::validate(const char* key, Violations& violations) const {
  if (enabled && bias_rate_max > 0 && bias_rate_min > bias_rate_max) {
    violations.add(concat(key, ".bias_rate_min"),
                   concat("(", shortest(bias_rate_min), ") must be at most ", key, ".bias_rate_max (", shortest(bias_rate_max), ")"));
  }
}

}  // namespace pimoe
