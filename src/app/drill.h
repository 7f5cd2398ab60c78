#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe drill list [--json]`, `pimoe drill NAME CONFIG.yaml [key.path=value ...] [--json]`: see drills.h.
void add_drill_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
