#pragma once

/// Presets: partial configurations under a name, built in from configs/presets/<name>.yaml, so that the binary has them wherever it is started.
///
/// A file's first line says in a comment what the preset is for. It has any keys but `preset`.

#include "base/config_fields.h"

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pimoe {

struct Preset {
  std::string_view name;
  std::string_view yaml;

  /// @returns the first line of the file without its comment sign.
  std::string_view purpose() const;
};

/// @returns every file of configs/presets, in the order of the alphabet. cmake/EmbedPresets.cmake writes the definition in each build.
std::span<const Preset> presets();

/// @returns the preset called `name`, or nothing. `optimized` is another name of `advanced`.
std::optional<Preset> find_preset(std::string_view name);

/// What a preset's origins begin with, in ConfigOrigins.
inline constexpr std::string_view kPresetOrigin = "preset ";

/// @returns the sources of a configuration, the weakest first: the preset that the file or the overrides name, if any, and the file.
std::vector<ConfigSource> with_preset(const ConfigSource& file, const std::vector<std::string>& overrides);

/// @returns every name that find_preset knows.
std::vector<std::string> preset_names();

}  // namespace pimoe
