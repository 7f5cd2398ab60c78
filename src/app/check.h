#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe check CONFIG.yaml [key.path=value ...] [--ranks N] [--device NAME] [--json]`
void add_check_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
