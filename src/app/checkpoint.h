#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe checkpoint list | verify | diff | extract | reshard`: what a run saved, whether it is whole, and what is in it.
void add_checkpoint_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
