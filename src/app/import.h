#pragma once

#include "app/command.h"

namespace pimoe {

void add_import_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
