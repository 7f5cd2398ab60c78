#pragma once

/// What the parts of a tokenizer.json (normalizer, pre_tokenizer, model, decoder) have in common.

#include "data/text_pattern.h"

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pimoe {

/// Ids are below it.
inline constexpr int64_t kMostTokens = 1 << 24;

/// Most bytes of a text that a part puts into others: what is put in often must be short.
inline constexpr size_t kMostContentBytes = 64;

/// Reads {"String": text} or {"Regex": expression}. @throws DataError
TextPattern read_pattern(const nlohmann::json& json, const std::string& place);

/// @returns `text` with every match of `pattern` written as `content`
std::string replaced(std::string_view text, const TextPattern& pattern, std::string_view content);

}  // namespace pimoe
