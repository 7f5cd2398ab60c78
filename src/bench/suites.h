#pragma once

#include "bench/bench.h"

#include <string>
#include <vector>

namespace pimoe {

/// A group of measurements; docs/bench.md says what each row means.
struct Suite {
  const char* name;
  const char* measures;       ///< a sentence
  void (*run)(Bench& bench);  ///< adds its rows; collective
  bool needs_experts = false;
  bool only_by_name = false;  ///< no part of `all`: its shapes are its own, and a configuration's model and training are refused
};

/// All suites, in the order in which `all` runs them.
const std::vector<Suite>& all_suites();

/// @returns of `suites` the one of that name, or of `all` every one that is not only_by_name  @throws UsageError naming the nearest
std::vector<Suite> suites_named(const std::string& name, const std::vector<Suite>& suites = all_suites());

/// Runs them, then measures the ceilings that they asked for again. Collective.
/// @throws ConfigError where the only one needs experts and the model is dense; of several it is left out, with a line in the log
void run_suites(const std::vector<Suite>& suites, Bench& bench);

// Each in its own file.
void run_ceilings_suite(Bench& bench);
void run_layer_suite(Bench& bench);
void run_model_suite(Bench& bench);
void run_dispatch_suite(Bench& bench);
void run_optimizer_suite(Bench& bench);
void run_checkpoint_suite(Bench& bench);
void run_data_suite(Bench& bench);
void run_scaling_suite(Bench& bench);

}  // namespace pimoe
