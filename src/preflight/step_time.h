#pragma once

/// How long a training step will take, from its configuration and a device's rates: work by kind over the rate of that kind.
///
/// A part takes its FLOP over a rate or its bytes over a rate, whichever kind it is; parts follow one another, but for sums of gradients, which
/// hide behind backward, and for the host, which runs ahead of a GPU until it has more to start than the GPU to do. On a CPU nothing runs ahead:
/// what starting an operation takes comes on top.

#include "model/flops.h"
#include "preflight/device_rates.h"
#include "train/forecast.h"

#include <string>
#include <vector>

namespace pimoe {

/// One part of a step.
struct TimedWork {
  std::string name;
  double seconds = 0.0;
  std::string limit;  ///< what makes it take so long: "products", "memory", "links", "network", "host"
};

struct StepTimeForecast {
  std::vector<TimedWork> parts;  ///< of the slowest rank, in the order of the step; what is hidden is not among them
  double hidden_seconds = 0.0;   ///< of sums of gradients, behind backward
  double seconds = 0.0;
  double tokens_per_second = 0.0;  ///< of all ranks
  double megatron_flops = 0.0;     ///< FLOP/s of a rank by Megatron's count; torchtitan's beside it
  double torchtitan_flops = 0.0;

  /// @returns the part that takes most
  const TimedWork& bottleneck() const;
};

/// @param skew  rows of the fullest rank over its share at balance, as in routed_rows.h: the step waits for the fullest
StepTimeForecast step_time(const TrainConfig& config, const ForecastPlace& place, const DeviceRates& rates, double skew);

}  // namespace pimoe
