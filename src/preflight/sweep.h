#pragma once

#include "preflight/step_time.h"

#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// One way to lay a step out on the same ranks.
struct SweptLayout {
  std::vector<std::string> changes;  ///< keys, as for the command line
  int64_t peak = 0;                  ///< bytes of the fullest rank
  StepTimeForecast time;
};

/// Every mesh.expert_parallel that divides ranks and experts, with every power of two of sequences at a time up to a rank's share, without
/// recomputation, of the experts, and of all; what needs more than `limit_bytes` (0: nothing does) is left out.
/// @param skew  that has to fit; times are at balance  @returns fastest first
std::vector<SweptLayout> sweep(const TrainConfig& config, const ForecastPlace& place, const DeviceRates& rates, double skew,
                               int64_t limit_bytes);

}  // namespace pimoe
