#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pimoe {

class TokenizerModel;

/// Turns text into token ids and back, thread-safe: a SentencePiece model, or a tokenizer.json of Hugging Face's (byte-level BPE and its relatives;
/// tokenizer_json.h says which). A file that begins with `{`, or whose name ends in .json, is the latter.
///
/// With a model of `train_tokenizer` decode(encode(text)) is `text` for every string of bytes. SentencePiece itself would lose two things:
/// it takes U+2581, its own mark for a space, for a space, and it replaces malformed UTF-8; both are encoded here as single bytes (byte
/// fallback). A model made elsewhere is read too, with or without a space in front of the text (Mixtral's has one); what its own
/// normaliser drops (NFKC, extra spaces) or what it cannot write without byte fallback is lost.
class Tokenizer {
 public:
  /// @throws DataError if the file is missing, is of neither format, asks for what is not implemented (by its name), or has no end-of-document
  ///         token: </s> of a SentencePiece model; for a tokenizer.json see end_token.h, which looks into the files beside it.
  explicit Tokenizer(const std::filesystem::path& model);
  /// The same from a model's content, with no files beside it; `name` is for messages.
  Tokenizer(const std::string& content, const std::string& name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  int64_t vocabulary() const;
  int32_t end_of_document() const;

  /// @param starts_document  false for what follows an earlier part of the same document, cut at `cut_point`
  /// @cost about 4 MB/s; memory is bounded for any length (parts of 8 KiB). tokenizer.json: about 10 MB/s, memory of some 10 times the text.
  std::vector<int32_t> encode(std::string_view text, bool starts_document = true) const;
  /// The same of a text that names special tokens by their words, as a chat template's does: they become their ids. A tokenizer.json has them found by
  /// encode already; a SentencePiece model's control pieces (<s>, </s>) are found here alone.
  std::vector<int32_t> encode_with_special(std::string_view text, bool starts_document = true) const;
  /// The text of `ids`; control pieces (end of document) give nothing. Ids that are no encoded text may give malformed UTF-8.
  /// @throws DataError for an id outside the vocabulary.
  std::string decode(const std::vector<int32_t>& ids) const;
  /// @throws DataError for an id outside the vocabulary.
  const std::string& piece(int32_t id) const;
  /// What one id adds to a decoded text: its bytes, none for control pieces. One after the other they are `decode`'s text, but for the space
  /// that some models put in front of a document.
  /// @throws DataError for an id outside the vocabulary.
  const std::string& text(int32_t id) const;

  /// @returns the largest position in (0, limit] at which a text longer than `limit` is best cut: between a newline and a printed ASCII
  ///          character, which leaves the tokens as they are; else after a newline or else before a word's space, which do so with models of
  ///          `train_tokenizer`; else between two characters.
  ///          A text that is not longer is not cut. REQUIRES limit >= 4.
  static size_t cut_point(std::string_view text, size_t limit);

 private:
  void require_known(int32_t id) const;

  std::unique_ptr<const TokenizerModel> model_;
};

/// @returns the tokenizer of a model's folder, tokenizer.json or tokenizer.model; a path that is no folder as it is
/// @throws DataError for a folder without one
std::filesystem::path tokenizer_in(const std::filesystem::path& path);

/// Trains a BPE model: byte fallback, identity normalisation, whitespace kept (also as pieces of spaces alone), digits split, newline a
/// piece of its own, </s> as end of document. The same sentences give the same bytes.
///
/// @param sentences  lines without their newline; those with a NUL or over 16 KiB are left out
/// @returns the model's content
/// @throws DataError if the text cannot give that many pieces (says how many it can), or the vocabulary is too small for its characters.
/// @cost 7 s for 8 MB and 4096 pieces.
std::string train_tokenizer(const std::vector<std::string>& sentences, int64_t vocabulary);

}  // namespace pimoe
