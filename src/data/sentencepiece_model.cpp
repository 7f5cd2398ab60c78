#include "data/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/tokenizer.h"

namespace pimoe {
namespace {

constexpr size_t kPartBytes = 8 << 10;                     // at 64 KiB encoding takes a third longer, at 1 MiB three times as long
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";    // U+2581, a space inside SentencePiece
constexpr std::string_view kUnknownText = "\xEF\xBF\xBD";  // U+FFFD

/// `normalizer_spec {add_dummy_prefix: false}` as protobuf: appended to a model it is merged into the one there. A space in front of the
/// text is then ours to add, once for a document and not for each part of it.
constexpr std::string_view kNoSpaceInFront("\x1a\x02\x18\x00", 4);

std::string with_spaces(std::string piece) {
  for (size_t at = piece.find(kSpaceMark); at != std::string::npos; at = piece.find(kSpaceMark, at + 1)) {
    piece.replace(at, kSpaceMark.size(), " ");
  }
  return piece;
}

class SentencePieceModel : public TokenizerModel {
 public:
  SentencePieceModel(const std::string& content, const std::string& name) {
    const auto loaded = content.empty() ? sentencepiece::util::Status(sentencepiece::util::StatusCode::kInternal, "it is empty")
                                        : processor_.LoadFromSerializedProto(content + std::string(kNoSpaceInFront));
    if (!loaded.ok()) throw DataError(concat("tokenizer ", name, " is no SentencePiece model: ", loaded.message()));
    if (processor_.eos_id() < 0) {
      throw DataError(concat("tokenizer ", name, " has no end-of-document piece (</s>), which every document ends with"));
    }
    sentencepiece::SentencePieceProcessor as_it_was;
    puts_space_in_front_ =
        as_it_was.LoadFromSerializedProto(content).ok() && as_it_was.EncodeAsPieces("a") != processor_.EncodeAsPieces("a");
    read_pieces();
  }

  int64_t vocabulary() const override { return static_cast<int64_t>(texts_.size()); }
  int32_t end_of_document() const override { return processor_.eos_id(); }
  const std::string& piece(int32_t id) const override { return processor_.IdToPiece(id); }
  const std::string& text(int32_t id) const override { return texts_[static_cast<size_t>(id)]; }
  size_t spaces_in_front() const override { return puts_space_in_front_ ? 1 : 0; }

  void encode(std::string_view text, bool starts_document, std::vector<int32_t>& out) const override {
    bool needs_space = starts_document && puts_space_in_front_;
    while (!text.empty()) {
      const std::string_view part = text.substr(0, Tokenizer::cut_point(text, kPartBytes));
      if (std::exchange(needs_space, false)) {
        encode_part(concat(' ', part), out);
      } else {
        encode_part(part, out);
      }
      text.remove_prefix(part.size());
    }
  }

  void encode_with_special(std::string_view text, bool starts_document, std::vector<int32_t>& out) const override {
    while (!text.empty()) {
      size_t begin = text.size();
      const std::pair<std::string, int32_t>* first = nullptr;
      for (const auto& control : controls_) {
        const size_t found = text.find(control.first);
        if (found < begin) {
          begin = found;
          first = &control;
        }
      }
      if (begin > 0) encode(text.substr(0, begin), starts_document, out);
      starts_document = false;
      if (first == nullptr) return;
      out.push_back(first->second);
      text.remove_prefix(begin + first->first.size());
    }
  }

 private:
  void read_pieces() {
    const int count = processor_.GetPieceSize();
    texts_.resize(static_cast<size_t>(count));
    int bytes_found = 0;
    for (int id = 0; id < count; ++id) {
      std::string& text = texts_[static_cast<size_t>(id)];
      if (processor_.IsControl(id)) {
        if (!processor_.IdToPiece(id).empty()) controls_.emplace_back(processor_.IdToPiece(id), id);
        continue;
      }
      if (processor_.IsUnknown(id)) {
        text = kUnknownText;
      } else if (processor_.IsByte(id)) {
        const std::string& piece = processor_.IdToPiece(id);  // <0xE2>
        uint8_t value = 0;
        std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
        text = std::string(1, static_cast<char>(value));
        byte_ids_[value] = id;
        ++bytes_found;
      } else {
        text = with_spaces(processor_.IdToPiece(id));
      }
    }
    has_all_bytes_ = bytes_found == 256;
  }

  void encode_plain(std::string_view text, std::vector<int32_t>& out) const {
    std::vector<int> ids;
    const auto encoded = processor_.Encode(text, &ids);
    if (!encoded.ok()) throw Error(concat("SentencePiece cannot encode a text: ", encoded.message()));
    out.insert(out.end(), ids.begin(), ids.end());
  }

  void encode_bytes(std::string_view text, std::vector<int32_t>& out) const {
    for (const char byte : text) out.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
  }

  /// Gives SentencePiece what it keeps, and writes the rest as bytes.
  void encode_part(std::string_view text, std::vector<int32_t>& out) const {
    if (!has_all_bytes_) return encode_plain(text, out);
    while (!text.empty()) {
      const size_t valid = valid_utf8_prefix(text);
      const size_t plain = std::min(valid, text.find(kSpaceMark));
      if (plain > 0) encode_plain(text.substr(0, plain), out);
      text.remove_prefix(plain);
      if (text.empty()) return;
      const size_t lost = plain < valid ? kSpaceMark.size() : 1;
      encode_bytes(text.substr(0, lost), out);
      text.remove_prefix(lost);
    }
  }

  sentencepiece::SentencePieceProcessor processor_;
  bool puts_space_in_front_ = false;
  bool has_all_bytes_ = false;
  std::array<int32_t, 256> byte_ids_{};
  std::vector<std::string> texts_;                         ///< what each id decodes to
  std::vector<std::pair<std::string, int32_t>> controls_;  ///< words of control pieces
};

}  // namespace

std::unique_ptr<TokenizerModel> read_sentencepiece_model(const std::string& content, const std::string& name) {
  return std::make_unique<SentencePieceModel>(content, name);
}

}  // namespace pimoe
