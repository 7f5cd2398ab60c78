#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "data/byte_alphabet.h"

namespace pimoe {

/// A tokenizer.json of byte-level BPE: the 256 bytes in their order, then what `merges` make, then <|endoftext|>.
inline nlohmann::ordered_json byte_level(const std::vector<std::pair<std::string, std::string>>& merges = {}) {
  nlohmann::ordered_json json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", nlohmann::ordered_json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", nlohmann::ordered_json::object()}, {"merges", nlohmann::ordered_json::array()}}}};
  nlohmann::ordered_json& model = json["model"];
  int id = 0;
  for (int byte = 0; byte < 256; ++byte) model["vocab"][character_of_byte(static_cast<unsigned char>(byte))] = id++;
  for (const auto& [left, right] : merges) {
    model["vocab"][left + right] = id++;
    model["merges"].push_back(left + " " + right);
  }
  json["added_tokens"].push_back({{"id", id}, {"content", "<|endoftext|>"}, {"special", true}, {"normalized", false}});
  return json;
}

}  // namespace pimoe
