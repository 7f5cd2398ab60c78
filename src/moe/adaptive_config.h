#pragma once

#include "base/config_fields.h"

#include <cstdint>

namespace pimoe {

/// `model.moe.adaptive:` keeps the load of the experts near a target by moving the settings that balance it.
struct AdaptiveConfig {
  bool enabled = false;
  int64_t window = 10;            ///< steps of a look
  double target_maxvio = 0.2;     ///< mean over a look
  double bias_rate_start = 0.01;  ///< of the loss-free bias, in units of the router's score for a load that is off by the mean load
  double bias_rate_min = 1e-4;    ///< bounds of the rate; the largest is 0: the bias is left alone
  double bias_rate_max = 0.03;
  double switch_loss_max = 0.05;   ///< bound of the Switch loss' coefficient; a larger configured one is its own bound
  double temperature_max = 2.0;    ///< bound of the router's temperature, likewise
  double collapse_entropy = 0.25;  ///< (H(c) - ln K) / (ln E - ln K) below which a router counts as collapsed

  void fields(FieldVisitor& visit);
  /// @param key  of this struct, "model.moe.adaptive"
  void validate(const char* key, Violations& violations) const;
};

}  // namespace pimoe
