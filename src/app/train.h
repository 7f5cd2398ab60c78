#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe train CONFIG.yaml [key.path=value ...] [--print-config]`
void add_train_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
