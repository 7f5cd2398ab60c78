#pragma once

#include "bench/suites.h"

#include <vector>

namespace pimoe {

/// The suites of bench/suites.h and, behind them, `serve`: its engine lives beside the folder bench.
const std::vector<Suite>& suites_of_pimoe();

/// Requests one at a time and many at once, of the configured model with random weights. Collective.
/// @throws ConfigError for a model that the engine refuses
void run_serve_suite(Bench& bench);

}  // namespace pimoe
