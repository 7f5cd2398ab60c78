#pragma once

/// The command line's "a.b=c" as a ConfigNode tree. Internal to config_fields.cpp.

#include <string>
#include <vector>

#include "base/config_tree.h"

namespace pimoe {

/// @returns the overrides as one tree; the last of several for one key holds. Complaints go to `problems`.
ConfigNode parse_overrides(const std::vector<std::string>& overrides, ConfigProblems& problems);

}  // namespace pimoe
