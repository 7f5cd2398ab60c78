#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/text_pattern.h"
#include "data/unicode_forms.h"

namespace pimoe {

/// `normalizer` of a tokenizer.json: NFC, NFD, NFKC, NFKD, Prepend, Replace, and a Sequence of them. Thread-safe.
class TextNormalizer {
 public:
  /// @param json   null: none, which leaves every text as it is
  /// @param place  for messages
  /// @throws DataError naming what is not implemented
  TextNormalizer(const nlohmann::json* json, const std::string& place);

  bool is_identity() const { return steps_.empty(); }
  /// @param starts_document  false: nothing is put in front
  std::string operator()(std::string_view text, bool starts_document) const;

 private:
  enum class Kind { kForm, kPrepend, kReplace };
  struct Step {
    Kind kind = Kind::kForm;
    UnicodeForm form = UnicodeForm::kNfc;
    std::string content;
    std::optional<TextPattern> pattern;  ///< for kReplace
  };

  void read(const nlohmann::json& json, const std::string& place);

  std::vector<Step> steps_;
};

}  // namespace pimoe
