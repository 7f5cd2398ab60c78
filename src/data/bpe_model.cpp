#include "data/bpe_model.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/byte_alphabet.h"
#include "data/json_fields.h"
#include "data/tokenizer_parts.h"

namespace pimoe {
namespace {

constexpr size_t kMostRememberedBytes = 64;
constexpr size_t kMostRememberedWords = 1 << 16;

/// Refuses what may be there as null or empty, and means something where it is not.
void refuse_unless_empty(JsonFields& fields, const std::string& key) {
  const nlohmann::json* value = fields.find(key);
  if (value == nullptr || *value == "" || *value == 0.0) return;
  throw DataError(concat(fields.place(), ".", key, " (", printable(value->dump().substr(0, 40)), ") is not implemented: it must be null"));
}

}  // namespace

BpeModel::BpeModel(const nlohmann::json& json, const std::string& place, bool is_byte_level) : is_byte_level_(is_byte_level) {
  JsonFields fields(json, place);
  if (fields.find("type") != nullptr && fields.text("type") != "BPE") {  // the oldest files have none
    throw DataError(concat(place, " is of the type '", printable(fields.text("type")), "', which is not implemented; BPE is"));
  }
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) refuse_unless_empty(fields, key);
  ignores_merges_ = fields.flag("ignore_merges", false);
  has_byte_fallback_ = fields.flag("byte_fallback", false);
  fuses_unknown_ = fields.flag("fuse_unk", false);
  read_vocabulary(fields.at("vocab"), place + ".vocab");
  read_merges(fields.at("merges"), place + ".merges");
  if (fields.find("unk_token") != nullptr) {
    const auto found = vocabulary_.find(fields.text("unk_token"));
    if (found == vocabulary_.end())
      throw DataError(concat(place, ".unk_token (", printable(fields.text("unk_token")), ") is not in vocab"));
    unknown_ = found->second;
  }
  fields.finish();
  read_bytes(place);
  if (!ignores_merges_) return;
  for (const auto& [piece, id] : vocabulary_) {
    if (!is_byte_level_) {
      whole_words_.emplace(piece, id);
    } else if (const std::optional<std::string> bytes = bytes_of_piece(piece)) {
      whole_words_.emplace(*bytes, id);
    }
  }
}

void BpeModel::read_vocabulary(const nlohmann::json& json, const std::string& place) {
  if (!json.is_object()) throw DataError(concat(place, " must be an object of pieces and their ids"));
  vocabulary_.reserve(json.size());
  for (const auto& item : json.items()) {
    vocabulary_.emplace(item.key(),
                        static_cast<int32_t>(whole_number(item.value(), kMostTokens, concat(place, " of '", printable(item.key()), "'"))));
  }
}

void BpeModel::add_merge(const std::string& left, const std::string& right, uint32_t rank, const std::string& place) {
  const auto id_of = [&](const std::string& piece) {
    const auto found = vocabulary_.find(piece);
    if (found != vocabulary_.end()) return found->second;
    throw DataError(concat(place, "[", rank, "] (", printable(left), " ", printable(right), ") needs the piece '", printable(piece),
                           "', which is not in vocab"));
  };
  merges_.add(id_of(left), id_of(right), rank, id_of(left + right));
}

void BpeModel::read_merges(const nlohmann::json& json, const std::string& place) {
  if (!json.is_array()) throw DataError(concat(place, " must be a list of pairs"));
  uint32_t rank = 0;
  for (const nlohmann::json& pair : json) {
    const auto refuse = [&] {
      throw DataError(concat(place, "[", rank, "] (",
                             printable(pair.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 80)),
                             ") must be \"a b\" or [\"a\", \"b\"]"));
    };
    if (pair.is_string()) {
      const auto& text = pair.get_ref<const std::string&>();
      if (rank == 0 && text.starts_with("#version")) continue;
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) refuse();
      add_merge(text.substr(0, space), text.substr(space + 1), rank, place);
    } else {
      if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) refuse();
      add_merge(pair[0].get_ref<const std::string&>(), pair[1].get_ref<const std::string&>(), rank, place);
    }
    ++rank;
  }
}

void BpeModel::read_bytes(const std::string& place) {
  byte_ids_.assign(256, -1);
  for (int byte = 0; byte < 256; ++byte) {
    static constexpr char kDigits[] = "0123456789ABCDEF";
    const std::string piece =
        is_byte_level_ ? character_of_byte(static_cast<unsigned char>(byte)) : concat("<0x", kDigits[byte >> 4], kDigits[byte & 15], ">");
    const auto found = vocabulary_.find(piece);
    if (found != vocabulary_.end()) {
      byte_ids_[static_cast<size_t>(byte)] = found->second;
    } else if (has_byte_fallback_ && !is_byte_level_) {
      throw DataError(concat(place, ".byte_fallback needs the piece ", piece, ", which is not in vocab"));
    }
  }
}

void BpeModel::encode_bytes(std::string_view bytes, std::vector<int32_t>& out) const {
  for (const char byte : bytes) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id >= 0) out.push_back(id);
  }
}

void BpeModel::split_into_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  bool after_unknown = false;
  while (!word.empty()) {
    size_t length = 1;
    int32_t id = -1;
    if (is_byte_level_) {
      id = byte_ids_[static_cast<unsigned char>(word[0])];
    } else {
      length += leading_continuations(word.substr(1));
      const auto found = vocabulary_.find(word.substr(0, length));
      if (found != vocabulary_.end()) id = found->second;
    }
    if (id >= 0) {
      symbols.push_back(id);
      after_unknown = false;
    } else if (has_byte_fallback_ && !is_byte_level_) {
      encode_bytes(word.substr(0, length), symbols);
    } else if (unknown_ >= 0) {
      if (!(fuses_unknown_ && after_unknown)) symbols.push_back(unknown_);
      after_unknown = true;
    }
    word.remove_prefix(length);
  }
}

void BpeModel::encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const {
  if (ignores_merges_) {
    const auto whole = whole_words_.find(word);
    if (whole != whole_words_.end()) return out.push_back(whole->second);
  }
  const bool is_remembered = word.size() <= kMostRememberedBytes;
  if (is_remembered) {
    const auto found = memory.words.find(word);
    if (found != memory.words.end()) {
      out.insert(out.end(), found->second.begin(), found->second.end());
      return;
    }
  }
  std::vector<int32_t>& symbols = memory.symbols;
  symbols.clear();
  split_into_symbols(word, symbols);
  merges_.apply(symbols);
  out.insert(out.end(), symbols.begin(), symbols.end());
  if (!is_remembered) return;
  if (memory.words.size() >= kMostRememberedWords) memory.words.clear();
  memory.words.emplace(word, symbols);
}

}  // namespace pimoe
