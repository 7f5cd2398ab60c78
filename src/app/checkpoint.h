#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe checkpoint list | verify | diff | extract | reshard`: what a run saved, whether it is whole, what is in it, and the same for other ranks.
void add_checkpoint_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
