#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe report`: a page of what runs have told of themselves.
void add_report_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
