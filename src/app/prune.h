#pragma once

#include "app/command.h"

namespace pimoe {

/// pimoe prune PATH --output PATH ...
void add_prune_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
