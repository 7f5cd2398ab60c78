#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe quantize`: a checkpoint's matrices as int8, and what that costs and gains.
void add_quantize_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
