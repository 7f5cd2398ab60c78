#include "data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/utf8.h"

namespace pimoe {
namespace {

constexpr size_t kPartBytes = 8 << 10;  // at 64 KiB encoding takes a third longer, at 1 MiB three times as long
constexpr uint64_t kModelBytesLimit = 1 << 30;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";    // U+2581, a space inside SentencePiece
constexpr std::string_view kUnknownText = "\xEF\xBF\xBD";  // U+FFFD

/// `normalizer_spec {add_dummy_prefix: false}` as protobuf: appended to a model it is merged into the one there. A space in front of the
/// text is then ours to add, once for a document and not for each part of it.
constexpr std::string_view kNoSpaceInFront("\x1a\x02\x18\x00", 4);

std::string read_model(const std::filesystem::path& model) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(model, ignored)) throw DataError(concat("tokenizer ", model.string(), " is no file"));
  return read_file(model, kModelBytesLimit);
}

std::string with_spaces(std::string piece) {
  for (size_t at = piece.find(kSpaceMark); at != std::string::npos; at = piece.find(kSpaceMark, at + 1)) {
    piece.replace(at, kSpaceMark.size(), " ");
  }
  return piece;
}

}  // namespace

struct Tokenizer::State {
  State(const std::string& content, const std::string& name) {
    const auto loaded = content.empty() ? sentencepiece::util::Status(sentencepiece::util::StatusCode::kInternal, "it is empty")
                                        : processor.LoadFromSerializedProto(content + std::string(kNoSpaceInFront));
    if (!loaded.ok()) throw DataError(concat("tokenizer ", name, " is no SentencePiece model: ", loaded.message()));
    end_of_document = processor.eos_id();
    if (end_of_document < 0) {
      throw DataError(concat("tokenizer ", name, " has no end-of-document piece (</s>), which every document ends with"));
    }
    sentencepiece::SentencePieceProcessor as_it_was;
    puts_space_in_front = as_it_was.LoadFromSerializedProto(content).ok() && as_it_was.EncodeAsPieces("a") != processor.EncodeAsPieces("a");
    read_pieces();
  }

  void read_pieces() {
    const int count = processor.GetPieceSize();
    texts.resize(static_cast<size_t>(count));
    int bytes_found = 0;
    for (int id = 0; id < count; ++id) {
      std::string& text = texts[static_cast<size_t>(id)];
      if (processor.IsControl(id)) continue;
      if (processor.IsUnknown(id)) {
        text = kUnknownText;
      } else if (processor.IsByte(id)) {
        const std::string& piece = processor.IdToPiece(id);  // <0xE2>
        uint8_t value = 0;
        std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
        text = std::string(1, static_cast<char>(value));
        byte_ids[value] = id;
        ++bytes_found;
      } else {
        text = with_spaces(processor.IdToPiece(id));
      }
    }
    has_all_bytes = bytes_found == 256;
  }

  void encode_plain(std::string_view text, std::vector<int32_t>& out) const {
    std::vector<int> ids;
    const auto encoded = processor.Encode(text, &ids);
    if (!encoded.ok()) throw Error(concat("SentencePiece cannot encode a text: ", encoded.message()));
    out.insert(out.end(), ids.begin(), ids.end());
  }

  void encode_bytes(std::string_view text, std::vector<int32_t>& out) const {
    for (const char byte : text) out.push_back(byte_ids[static_cast<unsigned char>(byte)]);
  }

  /// Gives SentencePiece what it keeps, and writes the rest as bytes.
  void encode_part(std::string_view text, std::vector<int32_t>& out) const {
    if (!has_all_bytes) return encode_plain(text, out);
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

  void require_known(int32_t id) const {
    if (id >= 0 && static_cast<size_t>(id) < texts.size()) return;
    throw DataError(concat("token id (", id, ") must be in [0, ", texts.size(), "), the tokenizer's vocabulary"));
  }

  sentencepiece::SentencePieceProcessor processor;
  int32_t end_of_document = -1;
  bool puts_space_in_front = false;
  bool has_all_bytes = false;
  std::array<int32_t, 256> byte_ids{};
  std::vector<std::string> texts;  ///< what each id decodes to
};

Tokenizer::Tokenizer(const std::filesystem::path& model) : Tokenizer(read_model(model), model.string()) {}
Tokenizer::Tokenizer(const std::string& content, const std::string& name) : state_(std::make_unique<State>(content, name)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

int64_t Tokenizer::vocabulary() const { return static_cast<int64_t>(state_->texts.size()); }
int32_t Tokenizer::end_of_document() const { return state_->end_of_document; }

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool starts_document) const {
  std::vector<int32_t> ids;
  bool needs_space = starts_document && state_->puts_space_in_front;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, cut_point(text, kPartBytes));
    if (std::exchange(needs_space, false)) {
      state_->encode_part(concat(' ', part), ids);
    } else {
      state_->encode_part(part, ids);
    }
    text.remove_prefix(part.size());
  }
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids) const {
  std::string text;
  for (const int32_t id : ids) text += this->text(id);
  if (state_->puts_space_in_front && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

const std::string& Tokenizer::piece(int32_t id) const {
  state_->require_known(id);
  return state_->processor.IdToPiece(id);
}

const std::string& Tokenizer::text(int32_t id) const {
  state_->require_known(id);
  return state_->texts[static_cast<size_t>(id)];
}

size_t Tokenizer::cut_point(std::string_view text, size_t limit) {
  if (text.size() <= limit) return text.size();
  const std::string_view window = text.substr(0, limit);
  const size_t newline = window.rfind('\n');
  if (newline != std::string_view::npos) return newline + 1;
  for (size_t space = window.rfind(' '); space != std::string_view::npos && space > 0; space = window.rfind(' ', space - 1)) {
    if (text[space - 1] != ' ') return space;
  }
  return character_boundary(text, limit);
}

}  // namespace pimoe
