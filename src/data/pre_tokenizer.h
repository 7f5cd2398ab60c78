#pragma once

#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/text_pattern.h"

namespace pimoe {

/// `pre_tokenizer` of a tokenizer.json: ByteLevel, Split, Digits, and a Sequence of them, in which ByteLevel is the last. Cuts a text into the words
/// that no token reaches over. Thread-safe.
class PreTokenizer {
 public:
  /// @param json   null: none, a text is one word
  /// @param place  for messages
  /// @throws DataError naming what is not implemented
  PreTokenizer(const nlohmann::json* json, const std::string& place);

  /// Whether words are sequences of bytes (ByteLevel), and not of characters.
  bool is_byte_level() const { return is_byte_level_; }

  /// @param starts_document  false: add_prefix_space puts nothing in front of the first word
  /// @param made   holds what of the words is not part of `text`
  /// @param words  replaced by the words, none of them empty
  void cut(std::string_view text, bool starts_document, std::deque<std::string>& made, std::vector<std::string_view>& words) const;

 private:
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    bool adds_space = false;             ///< in front of each word that has none, before it is cut
    std::optional<TextPattern> pattern;  ///< nothing: words stay whole
    Behavior behavior = Behavior::kIsolated;
    bool inverts = false;
  };

  void read(const nlohmann::json& json, const std::string& place);
  static Behavior read_behavior(const std::string& word, const std::string& place);
  static void join_spans(std::vector<TextSpan>& spans, Behavior behavior);

  std::vector<Step> steps_;
  bool is_byte_level_ = false;
};

}  // namespace pimoe
