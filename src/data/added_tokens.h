#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/number_table.h"
#include "data/text_pattern.h"

namespace pimoe {

/// A token that stands in a text by its content, whatever the model would make of it: an entry of `added_tokens` of a tokenizer.json.
struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool is_special = false;     ///< gives no text when it is decoded
  bool is_normalized = false;  ///< looked for in the normalized text
  bool single_word = false;    ///< only where no character of a word is beside it
  bool takes_left = false;     ///< the white space before it too
  bool takes_right = false;    ///< and after it
};

/// Finds added tokens in a text: from left to right, of several at one place the longest. Thread-safe.
class AddedTokens {
 public:
  AddedTokens();
  /// REQUIRES that the content is not empty. Of two with the same content the first is found.
  void add(const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  struct Piece {
    std::string_view text;  ///< where it is none
    int32_t id = -1;        ///< of an added token; -1: text
  };
  /// Cuts a text, which is well-formed UTF-8, into added tokens and what lies between them.
  /// @cost  at most the longest content for each byte
  void cut(std::string_view text, std::vector<Piece>& pieces) const;

 private:
  struct Found {
    size_t begin = 0;
    size_t end = 0;
    const AddedToken* token = nullptr;
  };
  Found next(std::string_view text, size_t from) const;
  bool is_beside_word(std::string_view text, const Found& found) const;
  bool is_word(std::string_view character) const;

  std::vector<AddedToken> tokens_;
  NumberTable children_;                ///< node << 8 | byte -> node, of a tree of the contents
  std::vector<int32_t> token_of_node_;  ///< index of the token that ends there, or -1
  bool begins_[256] = {};
  TextPattern word_;
};

}  // namespace pimoe
