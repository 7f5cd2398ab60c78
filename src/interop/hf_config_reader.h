#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace pimoe {

/// One config.json, read key by key; knows which of its keys were looked at. What is refused is named with its key and its value.
class HfConfigReader {
 public:
  /// @param json  must outlive it  @param name  of the file, for messages
  HfConfigReader(const nlohmann::ordered_json& json, std::string name) : json_(json), name_(std::move(name)) {}

  /// @throws DataError always
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const;

  /// @param key  "rope_parameters.rope_type": of an object inside  @returns nothing where it is missing or null
  const nlohmann::ordered_json* find(const std::string& key) const;
  const nlohmann::ordered_json* look(const std::string& key);

  /// All throw DataError where the value is of another kind, or out of its bounds.
  std::optional<int64_t> maybe_integer(const std::string& key, int64_t least, int64_t most);
  int64_t integer(const std::string& key, int64_t least, int64_t most);
  std::optional<double> maybe_number(const std::string& key);  ///< not below 0
  double positive(const std::string& key, std::optional<double> fallback = std::nullopt);
  bool flag(const std::string& key, bool fallback);
  std::string word(const std::string& key);  ///< empty where it is missing

  /// Keys that nobody looked at and that may have a meaning.
  std::vector<std::string> unseen() const;

 private:
  const nlohmann::ordered_json& json_;
  std::string name_;
  std::set<std::string> seen_;
};

}  // namespace pimoe
