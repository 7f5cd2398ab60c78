#include "data/end_token.h"

#include <array>

#include "base/errors.h"
#include "base/file_io.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "base/utf8.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kLargestFileBytes = 64 << 20;
constexpr std::array kByContent = {"tokenizer_config.json", "special_tokens_map.json"};
constexpr std::array kById = {"generation_config.json", "config.json"};
constexpr std::array kUsualNames = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>"};

/// @returns the content of `eos_token`: a string, or an object with one; nothing where the file says nothing
std::optional<std::string> content_in(const fs::path& file) {
  const Json json = read_strict_json(file, kLargestFileBytes);
  const auto token = json.find("eos_token");
  if (token == json.end() || token->is_null()) return std::nullopt;
  if (token->is_string()) return token->get<std::string>();
  if (token->is_object() && token->contains("content") && token->at("content").is_string()) return token->at("content").get<std::string>();
  throw DataError(concat(file.string(), ": eos_token must be a string, or an object with a string `content`"));
}

std::optional<int32_t> id_in(const fs::path& file, int64_t vocabulary) {
  const Json json = read_strict_json(file, kLargestFileBytes);
  auto id = json.find("eos_token_id");
  if (id == json.end() || id->is_null()) return std::nullopt;
  const Json& value = id->is_array() && !id->empty() ? id->front() : *id;
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(vocabulary)) {
    throw DataError(concat(file.string(), ": eos_token_id (", printable(value.dump().substr(0, 40)), ") must be in [0, ", vocabulary,
                           "), the tokenizer's vocabulary"));
  }
  return static_cast<int32_t>(value.get<uint64_t>());
}

}  // namespace

int32_t find_end_token(const fs::path& folder, const std::string& name,
                       const std::function<std::optional<int32_t>(const std::string& content)>& id_of, int64_t vocabulary,
                       const std::function<bool(int32_t id)>& is_special) {
  if (!folder.empty()) {
    for (const char* file : kByContent) {
      if (!is_there(folder / file)) continue;
      const std::optional<std::string> content = content_in(folder / file);
      if (!content) continue;
      if (const std::optional<int32_t> id = id_of(*content)) return *id;
      throw DataError(concat((folder / file).string(), ": eos_token (", printable(*content), ") is no token of ", name));
    }
    for (const char* file : kById) {
      if (!is_there(folder / file)) continue;
      if (const std::optional<int32_t> id = id_in(folder / file, vocabulary)) return *id;
    }
  }
  for (const char* content : kUsualNames) {
    const std::optional<int32_t> id = id_of(content);
    if (id && is_special(*id)) return *id;
  }
  throw DataError(concat(name, " has no end-of-document token, which every document ends with: no special token of its own is ",
                         join({kUsualNames.begin(), kUsualNames.end()}, ", "), folder.empty() ? "" : ", and no eos_token is in ",
                         folder.empty() ? "" : join({kByContent.begin(), kByContent.end()}, ", "),
                         folder.empty() ? "" : ", no eos_token_id in ", folder.empty() ? "" : join({kById.begin(), kById.end()}, ", "),
                         folder.empty() ? "" : concat(" of ", folder.string())));
}

}  // namespace pimoe
