#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe evaluate --checkpoint PATH [--data [NAME=]PREFIX ...] [--batches N]`
void add_evaluate_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
