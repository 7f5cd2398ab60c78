#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// Finds the token that ends a document, as transformers finds a tokenizer.json's: the first that says so of `eos_token` in tokenizer_config.json
/// and special_tokens_map.json, `eos_token_id` in generation_config.json and config.json (of a list its first), all beside the
/// tokenizer.json; and where none does, the first special token of a usual name: <|endoftext|>, <|end_of_text|>, </s>, <eos>, ...
///
/// @param folder      that has these files; empty: none
/// @param name        of the tokenizer, for messages
/// @param id_of       of a token's content; nothing where there is no such token
/// @param vocabulary  ids are below it
/// @param is_special  whether an id is a special token
/// @throws DataError where a file names what is no token of this tokenizer, or nothing names one; IoError
int32_t find_end_token(const std::filesystem::path& folder, const std::string& name,
                       const std::function<std::optional<int32_t>(const std::string& content)>& id_of, int64_t vocabulary,
                       const std::function<bool(int32_t id)>& is_special);

}  // namespace pimoe
