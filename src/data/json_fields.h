#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

namespace pimoe {

/// Reads the members of a JSON object by name; whatever is not asked for is refused at the end: a key that nobody reads would mean something to
/// the program that wrote it.
class JsonFields {
 public:
  /// @param place  for messages: "tokenizer.json: pre_tokenizer"
  /// @throws DataError where `json` is no object
  JsonFields(const nlohmann::json& json, std::string place);

  const std::string& place() const { return place_; }
  /// @returns the member, or null where it is missing or JSON's null
  const nlohmann::json* find(const std::string& key);
  /// @throws DataError, as all that follow, where the member is missing or of another type
  const nlohmann::json& at(const std::string& key);
  const std::string& text(const std::string& key);
  /// Text of at most `most_bytes`.
  const std::string& short_text(const std::string& key, size_t most_bytes);
  bool flag(const std::string& key, bool when_missing);
  /// A whole number in [0, below).
  int64_t number(const std::string& key, int64_t below);
  /// Hands over each element of a member that is a list, with its place: "decoder.decoders[2]".
  void each(const std::string& key, const std::function<void(const nlohmann::json& element, const std::string& place)>& take);
  /// Takes a member as it is: it changes nothing here.
  void ignore(const std::string& key) { find(key); }
  /// @throws DataError for a member that was not asked for
  void finish() const;

 private:
  const nlohmann::json& json_;
  std::string place_;
  std::set<std::string> known_;
};

/// @throws DataError where `json` is no whole number in [0, below)
int64_t whole_number(const nlohmann::json& json, int64_t below, const std::string& place);

}  // namespace pimoe
