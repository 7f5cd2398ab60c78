#pragma once

#include "moe/moe_config.h"

#include <string>
#include <vector>

namespace pimoe {

/// Turns off what is defined for each rank's tokens alone: no two layouts could agree on it.
/// @returns a line for each key that was on
std::vector<std::string> leave_out_what_layouts_change(MoeConfig& moe);

/// Whether there is anything of the kind.
bool changes_with_layout(const MoeConfig& moe);

}  // namespace pimoe
