#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

namespace pimoe {

/// Parses JSON that others wrote; what nlohmann's parser would let pass is refused.
/// @param name  for messages
/// @throws DataError where it is no JSON, nested deeper than 32, has a key twice in one object, or is no object at the top
/// @cost   quadratic in the keys of one object, which keep their order
nlohmann::ordered_json parse_strict_json(const std::string& text, const std::string& name);

/// The same with the keys sorted, for objects of very many.
nlohmann::json parse_sorted_strict_json(const std::string& text, const std::string& name);

/// parse_strict_json of a regular file of at most `limit_bytes`. @throws IoError, DataError
nlohmann::ordered_json read_strict_json(const std::filesystem::path& file, uint64_t limit_bytes);

}  // namespace pimoe
