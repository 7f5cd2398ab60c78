#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe top`: a run that goes on, seen in a terminal.
void add_top_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
