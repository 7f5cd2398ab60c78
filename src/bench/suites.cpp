#include "bench/suites.h"

#include "base/errors.h"
#include "base/text.h"

#include <algorithm>
#include <iterator>

namespace pimoe {

const std::vector<Suite>& all_suites() {
  static const std::vector<Suite> suites = {
      {"ceilings", "what the hardware can do: products, copies, exchange and sums between ranks, the run folder's disk",
       run_ceilings_suite},
      {"layer", "one MoE layer forward and backward, with routing as it begins, balanced, and by Zipf's law", run_layer_suite, true},
      {"model", "the whole training step on random tokens: tokens/s, share of peak and ceiling, memory", run_model_suite},
      {"dispatch", "rows to their experts' ranks and back: time, bytes that cross ranks", run_dispatch_suite, true},
      {"optimizer", "gradient norm and AdamW step against the memory's speed", run_optimizer_suite},
      {"checkpoint", "saving and loading, and how long training stands still for it", run_checkpoint_suite},
      {"data", "how fast batches are read, against what the training step needs", run_data_suite},
      {"scaling", "one row for comparing rank counts: tokens/s, time by phase and rank, bytes by group", run_scaling_suite},
  };
  return suites;
}

std::vector<Suite> suites_named(const std::string& name, const std::vector<Suite>& suites) {
  if (name == "all") {
    std::vector<Suite> all;
    std::copy_if(suites.begin(), suites.end(), std::back_inserter(all), [](const Suite& suite) { return !suite.only_by_name; });
    return all;
  }
  std::vector<std::string> names;
  for (const Suite& suite : suites) {
    if (name == suite.name) return {suite};
    names.emplace_back(suite.name);
  }
  names.emplace_back("all");
  const std::string nearest = nearest_name(name, names);
  throw UsageError(concat("there is no suite '", name, "'", nearest.empty() ? "" : concat(": did you mean '", nearest, "'?"), " (",
                          join(names, ", "), ")"));
}

void run_suites(const std::vector<Suite>& suites, Bench& bench) {
  const bool is_dense = bench.config().model.moe_layers() == 0;
  for (const Suite& suite : suites) {
    if (suite.needs_experts && is_dense) {
      const std::string why = concat("suite ", suite.name, " needs a MoE layer, and model.moe.experts (", bench.config().model.moe.experts,
                                     ") and model.moe.first_dense_layers (", bench.config().model.moe.first_dense_layers, ") leave none");
      if (suites.size() == 1) throw ConfigError(why);
      bench.log().info(why + ": left out");
      continue;
    }
    bench.log().info(concat("suite ", suite.name));
    suite.run(bench);
  }
  bench.measure_ceilings_again();
}

void run_ceilings_suite(Bench& bench) {
  for (const Ceiling& ceiling : ceilings_of(bench)) bench.ceiling(ceiling.name);
}

}  // namespace pimoe
