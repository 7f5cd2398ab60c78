#pragma once

#include "app/command.h"

namespace pimoe {

void add_export_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
