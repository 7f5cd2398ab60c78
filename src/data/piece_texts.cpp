#include "data/piece_texts.h"

#include <charconv>
#include <optional>
#include <utility>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/byte_alphabet.h"
#include "data/json_fields.h"
#include "data/tokenizer_parts.h"

namespace pimoe {
namespace {

/// @returns the byte that a piece "<0xE2>" stands for, or -1 for other pieces
int byte_of_piece(const std::string& piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  const auto read = std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  return read.ptr == piece.data() + 5 ? value : -1;
}

}  // namespace

PieceTexts::PieceTexts(const nlohmann::json* json, const std::string& place) {
  if (json == nullptr)
    throw DataError(concat(place, " is missing: without one the text is not what it was; ByteLevel and Sequence are implemented"));
  read(*json, place);
}

void PieceTexts::read(const nlohmann::json& json, const std::string& place) {
  JsonFields fields(json, place);
  const std::string& type = fields.text("type");
  if (is_fused_ && type != "Strip") throw DataError(concat(place, " follows Fuse, and is ", printable(type), ": Strip alone may"));
  if (type == "Sequence") {
    fields.each("decoders", [this](const nlohmann::json& part, const std::string& at) { read(part, at); });
  } else if (type == "ByteLevel") {
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.ignore(key);  // of the type, and of no meaning here
    steps_.push_back({.kind = Kind::kByteLevel, .content = {}, .pattern = {}});
  } else if (type == "ByteFallback") {
    steps_.push_back({.kind = Kind::kByteFallback, .content = {}, .pattern = {}});
  } else if (type == "Replace") {
    Step step{.kind = Kind::kReplace, .content = fields.short_text("content", kMostContentBytes), .pattern = {}};
    step.pattern.emplace(read_pattern(fields.at("pattern"), place + ".pattern"));
    steps_.push_back(std::move(step));
  } else if (type == "Fuse") {
    is_fused_ = true;
  } else if (type == "Strip") {
    if (!is_fused_) throw DataError(concat(place, " is a Strip before Fuse, of every piece, which is not implemented"));
    const std::string& content = fields.text("content");
    const int64_t start = fields.number("start", 1 << 20);
    const int64_t stop = fields.number("stop", 1 << 20);
    if (content != " " || stop != 0) throw DataError(concat(place, " is a Strip, which is implemented for spaces at the start alone"));
    spaces_in_front_ += static_cast<size_t>(start);
  } else {
    throw DataError(concat(place, " is of the type '", printable(type),
                           "', which is not implemented; ByteLevel, ByteFallback, Replace, Fuse, Strip and Sequence are"));
  }
  fields.finish();
}

std::string PieceTexts::text_of(const std::string& piece) const {
  std::string text = piece;
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kByteLevel:
        if (const std::optional<std::string> bytes = bytes_of_piece(text)) text = *bytes;
        break;
      case Kind::kByteFallback:
        if (const int byte = byte_of_piece(text); byte >= 0) text = std::string(1, static_cast<char>(byte));
        break;
      case Kind::kReplace: text = replaced(text, *step.pattern, step.content); break;
    }
  }
  return text;
}

}  // namespace pimoe
