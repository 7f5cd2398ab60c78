#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe parity CONFIG.yaml [key.path=value ...] [--sequences N] [--json]`: one training step of this layout, of one rank, and of a plain
/// float64 loop (parity_reference.h), compared tensor by tensor.
///
/// For tests alone: with PIMOE_PARITY_BREAK=NAME in the environment rank 0 of the layout, not of the one-rank run, scales its contribution to the
/// gradient of parameter NAME by 1.1: parity must then say no. No other command reads it.
void add_parity_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
