#include "data/sentencepiece_json.h"

#include <sentencepiece_processor.h>

#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;
using sentencepiece::SentencePieceProcessor;

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
constexpr const char* kNewline = "\n";                   // the only piece that was asked for by name
constexpr int kBytes = 256;

/// Spaces at both ends and in a row, a wide letter, a ligature, and an accent of its own: what normalisers change.
constexpr const char* kChangeable = "  \xEF\xBC\xA1\xEF\xAC\x81 e\xCC\x81  ";

bool is_plain(const SentencePieceProcessor& model, int id) {
  return !model.IsControl(id) && !model.IsUnknown(id) && !model.IsByte(id) && model.IdToPiece(id) != kNewline;
}

bool keeps_texts(const SentencePieceProcessor& model) {
  std::string text;
  for (const std::string& piece : model.EncodeAsPieces("a")) text += piece;
  std::string back;
  return text == "a" && model.Decode(model.EncodeAsIds(kChangeable), &back).ok() && back == kChangeable;
}

/// Scores of SentencePiece's BPE are 0, -1, -2, ... in the order of the merges; others' are logarithms.
bool is_byte_pair_model(const SentencePieceProcessor& model) {
  int plain = 0;
  int bytes = 0;
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    bytes += model.IsByte(id) ? 1 : 0;
    if (is_plain(model, id) && model.GetScore(id) != static_cast<float>(-plain++)) return false;
  }
  return bytes == kBytes && model.unk_id() >= 0 && model.eos_id() >= 0;
}

/// Of each piece all pairs that make it, the longest left half first, as Hugging Face's converters put them.
Json merges_of(const SentencePieceProcessor& model, const std::unordered_map<std::string_view, int>& ids) {
  Json merges = Json::array();
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    if (!is_plain(model, id)) continue;
    const std::string_view piece = model.IdToPiece(id);
    for (size_t at = piece.size() - 1; at > 0; --at) {
      if ((static_cast<unsigned char>(piece[at]) & 0xC0) == 0x80) continue;  // inside of a character
      if (ids.contains(piece.substr(0, at)) && ids.contains(piece.substr(at))) merges.push_back({piece.substr(0, at), piece.substr(at)});
    }
  }
  return merges;
}

Json added_token(const SentencePieceProcessor& model, int id, bool is_special) {
  return {{"id", id},
          {"content", model.IdToPiece(id)},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", is_special}};
}

Json replace(std::string_view what, std::string_view by) { return {{"type", "Replace"}, {"pattern", {{"String", what}}}, {"content", by}}; }

}  // namespace

std::optional<std::string> tokenizer_json_of(const std::string& content) {
  SentencePieceProcessor model;
  const auto loaded = model.LoadFromSerializedProto(content);
  if (content.empty() || !loaded.ok()) throw DataError(concat("this is no SentencePiece model: ", loaded.message()));
  if (!is_byte_pair_model(model) || !keeps_texts(model)) return std::nullopt;

  std::unordered_map<std::string_view, int> ids;
  Json vocabulary = Json::object();
  Json added = Json::array();
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    const std::string& piece = model.IdToPiece(id);
    vocabulary[piece] = id;
    if (is_plain(model, id)) ids[piece] = id;
    if (!is_plain(model, id) && !model.IsByte(id)) added.push_back(added_token(model, id, piece != kNewline));
  }
  Json merges = merges_of(model, ids);
  const Json json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", std::move(added)},
      {"normalizer", replace(" ", kSpaceMark)},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", {{"type", "Sequence"}, {"decoders", {replace(kSpaceMark, " "), Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}}}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", model.IdToPiece(model.unk_id())},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"ignore_merges", false},
        {"vocab", std::move(vocabulary)},
        {"merges", std::move(merges)}}},
  };
  return json.dump() + "\n";
}

}  // namespace pimoe
