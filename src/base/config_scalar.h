#pragma once

/// The text of one value: how it is read and how it is written. Stricter than YAML: 010, 1_000, 0x10, yes and .inf are refused.
/// Internal to the config_*.cpp files. Each `read_` function returns what is wrong, or "" after it has set `value`.

#include <cstdint>
#include <string>

#include "base/config_fields.h"
#include "base/config_tree.h"

namespace pimoe {

std::string read_flag(const ConfigNode& node, bool& value);
std::string read_integer(const ConfigNode& node, const Range& range, int64_t& value);
std::string read_number(const ConfigNode& node, const Range& range, double& value);
std::string read_word(const ConfigNode& node, const std::vector<std::string>& words, size_t& index);

/// @returns `text` in double quotes, with what YAML would take for its own syntax escaped.
std::string yaml_text(const std::string& text);

}  // namespace pimoe
