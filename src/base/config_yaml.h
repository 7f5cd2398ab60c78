#pragma once

/// YAML text as a ConfigNode tree: what yaml-cpp's own tree would hide is complained about here. Internal to the config_*.cpp files.

#include <cstddef>
#include <string>

#include "base/config_tree.h"

namespace pimoe {

struct ConfigSource;

inline constexpr size_t kMostYamlBytes = size_t{1} << 20;  ///< a configuration has a few thousand; more is another file by mistake

/// @returns the tree, a map or nothing; complaints go to `problems`, and what could not be read is left out.
ConfigNode parse_source(const ConfigSource& source, ConfigProblems& problems);

/// The same for one value of any kind, all of it at one place.
/// @param path  of the key, for complaints
ConfigNode parse_value(const std::string& yaml, const ConfigPlace& place, const std::string& path, ConfigProblems& problems);

}  // namespace pimoe
