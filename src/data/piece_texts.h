#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/text_pattern.h"

namespace pimoe {

/// `decoder` of a tokenizer.json, as the text of each piece alone: ByteLevel; or a Sequence of Replace, ByteFallback, ByteLevel, then Fuse, then Strip of
/// spaces at the start.
class PieceTexts {
 public:
  /// @throws DataError naming what is not implemented; without a decoder pieces would be joined by spaces, and no text be what it was
  PieceTexts(const nlohmann::json* json, const std::string& place);

  std::string text_of(const std::string& piece) const;
  /// @returns how many spaces Strip takes from the front of a text
  size_t spaces_in_front() const { return spaces_in_front_; }

 private:
  enum class Kind { kByteLevel, kByteFallback, kReplace };
  struct Step {
    Kind kind = Kind::kByteLevel;
    std::string content;
    std::optional<TextPattern> pattern;  ///< for kReplace
  };

  void read(const nlohmann::json& json, const std::string& place);

  std::vector<Step> steps_;
  bool is_fused_ = false;
  size_t spaces_in_front_ = 0;
};

}  // namespace pimoe
