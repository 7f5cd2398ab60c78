#include "train/presets.h"

#include <algorithm>
#include <utility>

namespace pimoe {
namespace {

constexpr std::pair<std::string_view, std::string_view> kOtherNames[] = {{"optimized", "advanced"}};

}  // namespace

std::string_view Preset::purpose() const {
  const std::string_view line = yaml.substr(0, yaml.find('\n'));
  return line.substr(std::min(line.size(), line.find_first_not_of("# ")));
}

std::optional<Preset> find_preset(std::string_view name) {
  for (const auto& [other, of] : kOtherNames) {
    if (name == other) name = of;
  }
  for (const Preset& preset : presets()) {
    if (preset.name == name) return preset;
  }
  return std::nullopt;
}

std::vector<ConfigSource> with_preset(const ConfigSource& file, const std::vector<std::string>& overrides) {
  std::vector<ConfigSource> sources = {file};
  const std::optional<std::string> name = peek_text(sources, overrides, "preset");
  if (const auto preset = find_preset(name.value_or("none"))) {
    sources.insert(sources.begin(), {std::string(preset->yaml), std::string(kPresetOrigin).append(preset->name)});
  }
  return sources;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.emplace_back(preset.name);
  for (const auto& [other, of] : kOtherNames) names.emplace_back(other);
  return names;
}

}  // namespace pimoe
