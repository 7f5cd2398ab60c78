#pragma once

/// `model` of a tokenizer.json: byte-pair encoding.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/pair_merges.h"

namespace pimoe {

/// Looks up texts without copying them.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

/// `model` of a tokenizer.json: byte-pair encoding of words. Thread-safe.
class BpeModel {
 public:
  /// @param is_byte_level  words are bytes, which the vocabulary writes as byte_alphabet.h does; else characters
  /// @throws DataError naming what is not implemented, or what does not hold together
  BpeModel(const nlohmann::json& json, const std::string& place, bool is_byte_level);

  /// Of each piece as the file writes it.
  const TextMap<int32_t>& vocabulary() const { return vocabulary_; }

  /// Words that were encoded before: for one thread at a time.
  class Memory {
   private:
    friend class BpeModel;
    TextMap<std::vector<int32_t>> words;
    std::vector<int32_t> symbols;
  };

  /// Appends the ids of a word.
  /// @cost  n log n of its length
  void encode(std::string_view word, Memory& memory, std::vector<int32_t>& out) const;
  /// Appends each byte's own id, where there is one.
  void encode_bytes(std::string_view bytes, std::vector<int32_t>& out) const;

 private:
  void read_vocabulary(const nlohmann::json& json, const std::string& place);
  void read_merges(const nlohmann::json& json, const std::string& place);
  void read_bytes(const std::string& place);
  void add_merge(const std::string& left, const std::string& right, uint32_t rank, const std::string& place);
  void split_into_symbols(std::string_view word, std::vector<int32_t>& symbols) const;

  bool is_byte_level_ = false;
  bool ignores_merges_ = false;
  bool has_byte_fallback_ = false;
  bool fuses_unknown_ = false;
  int32_t unknown_ = -1;
  TextMap<int32_t> vocabulary_;
  TextMap<int32_t> whole_words_;  ///< what ignore_merges looks up, as words are written; empty without it
  PairMerges merges_;
  std::vector<int32_t> byte_ids_;  ///< 256, -1 where a byte has none
};

}  // namespace pimoe
