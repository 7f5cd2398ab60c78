#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe bench SUITE [CONFIG.yaml] [key.path=value ...] [--seconds S] [--json [FILE]]`: see bench/suites.h and docs/bench.md.
void add_bench_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
