/// Renders and encodes many conversations, for chat_templates.py: `chat_batch < LINES > LINES`, JSON in both.
///
///     in   {"tokenizer": FILE, "template": FILE, "messages": [...], "add_generation_prompt": true or false}
///     out  {"text": ..., "ids": [...], "learned": [0, 1, ...]}, the last two of conversations with an answer; or {"error": ...}

#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "base/errors.h"
#include "data/chat_encoder.h"

namespace {

using Json = nlohmann::ordered_json;

/// Tokenizers and templates that were read, by their files.
class Library {
 public:
  const pimoe::Tokenizer& tokenizer(const std::string& file) {
    if (!tokenizers_.contains(file)) tokenizers_.emplace(file, pimoe::Tokenizer(std::filesystem::path(file)));
    return tokenizers_.at(file);
  }
  const pimoe::ChatTemplate& chat(const std::string& file, const std::string& tokenizer) {
    const std::string key = file + "\n" + tokenizer;
    if (!templates_.contains(key)) templates_.emplace(key, pimoe::find_chat_template(tokenizer, file, "</s>"));
    return templates_.at(key);
  }

 private:
  std::map<std::string, pimoe::Tokenizer> tokenizers_;
  std::map<std::string, pimoe::ChatTemplate> templates_;
};

Json answer(const Json& line, Library& library) try {
  const std::string file = line["tokenizer"];
  const pimoe::ChatTemplate& chat = library.chat(line["template"], file);
  Json result = {{"text", chat.render(line["messages"], line["add_generation_prompt"])}};
  if (line["add_generation_prompt"]) return result;
  const pimoe::Conversation conversation{.messages = line["messages"]};
  try {
    const pimoe::EncodedChat encoded = pimoe::ChatEncoder(library.tokenizer(file), &chat).encode(conversation);
    result["ids"] = encoded.ids;
    result["learned"] = encoded.learned;
  } catch (const pimoe::DataError& error) {
    result["refused"] = error.what();
  }
  return result;
} catch (const pimoe::DataError& error) {
  return {{"error", error.what()}};
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  Library library;
  std::string line;
  while (std::getline(std::cin, line))
    std::cout << answer(Json::parse(line), library).dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
}
