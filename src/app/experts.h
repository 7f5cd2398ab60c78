#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe experts PATH [--data PREFIX] [--batches N] [--classes python|prose] [--svg FILE] [--json]`: what a model's experts receive.
void add_experts_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
