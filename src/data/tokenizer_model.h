#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pimoe {

/// What a Tokenizer works by: a SentencePiece model (sentencepiece_model.h) or a tokenizer.json (tokenizer_json.h). Thread-safe.
class TokenizerModel {
 public:
  virtual ~TokenizerModel() = default;

  virtual int64_t vocabulary() const = 0;
  virtual int32_t end_of_document() const = 0;
  /// Appends the ids of `text`. @param starts_document  false for what follows an earlier part of the same document
  virtual void encode(std::string_view text, bool starts_document, std::vector<int32_t>& out) const = 0;
  /// The same, and special tokens that the text names become their ids where encode does not see to it.
  virtual void encode_with_special(std::string_view text, bool starts_document, std::vector<int32_t>& out) const {
    encode(text, starts_document, out);
  }
  /// REQUIRES 0 <= id < vocabulary(), as `text` does.
  virtual const std::string& piece(int32_t id) const = 0;
  virtual const std::string& text(int32_t id) const = 0;
  /// @returns how many spaces encode puts in front of a document, which decode takes away again
  virtual size_t spaces_in_front() const = 0;
};

}  // namespace pimoe
