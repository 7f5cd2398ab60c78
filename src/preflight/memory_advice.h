#pragma once

#include "train/forecast.h"

#include <string>

namespace pimoe {

/// For whoever has run out of memory: which parts of the fullest rank's memory are how large by the forecast, balanced and with all tokens on one rank's
/// experts, and which changes give most.
/// @cost the model on the meta device, once for each change
std::string memory_advice(const TrainConfig& config, const ForecastPlace& place);

}  // namespace pimoe
