#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe generate --checkpoint PATH --prompt TEXT [--tokens N --temperature T --top-k K --top-p P --seed S ...]`
void add_generate_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
