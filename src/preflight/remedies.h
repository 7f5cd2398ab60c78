#pragma once

#include "train/forecast.h"

#include <string>
#include <vector>

namespace pimoe {

/// One change of a configuration that takes less memory.
struct Remedy {
  std::string change;  ///< "train.recompute=moe", "--ranks 16"
  int64_t bytes = 0;   ///< less, on the fullest rank
  int64_t peak = 0;    ///< then, with what is beside tensors
};

/// @param skew  that the run has to bear  @returns what helps alone, what gives most first
std::vector<Remedy> remedies(const TrainConfig& config, const ForecastPlace& place, double skew);

}  // namespace pimoe
