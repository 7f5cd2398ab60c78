#pragma once

#include "bench/suites.h"

#include <vector>

namespace pimoe {

/// The suites of bench/suites.h and, behind them, `serve` and `presets`: the engine lives beside the folder bench.
const std::vector<Suite>& suites_of_pimoe();

/// How fast the engine answers. Other ranks than 0 have no time of their own.
struct ServingSpeed {
  Spread seconds;  ///< of all requests together
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;  ///< of each request
  double new_tokens_per_second = 0.0;
};

/// `requests` greedy ones at a time, of the configured model with random weights; `config` is bench's without what is left out for serving
/// (leave_out_what_batches_change). Collective. @throws ConfigError for a model that the engine refuses
ServingSpeed measure_serving(const Bench& bench, const ModelConfig& config, int64_t requests);

/// Requests one at a time and many at once, of the configured model with random weights. Collective.
/// @throws ConfigError for a model that the engine refuses
void run_serve_suite(Bench& bench);

}  // namespace pimoe
