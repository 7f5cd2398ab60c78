#include "serve/completion_texts.h"

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "serve/openai_error.h"
#include "serve/text_stream.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace pimoe {

CompletionTexts::CompletionTexts(const Tokenizer& tokenizer, const ChatTemplate* chat, int64_t vocabulary, int64_t sequence_length)
    : tokenizer_(tokenizer), chat_(chat), vocabulary_(vocabulary), sequence_length_(sequence_length) {
  for (int64_t id = 0; id < tokenizer.vocabulary(); ++id) {
    longest_token_ = std::max(longest_token_, tokenizer.text(static_cast<int32_t>(id)).size());
    longest_token_ = std::max(longest_token_, tokenizer.piece(static_cast<int32_t>(id)).size());  // of special tokens, which have no text
  }
  if (chat_ != nullptr) {
    encoder_.emplace(tokenizer_, chat_);
    end_of_turn_ = encoder_->end_of_turn();
  }
}

void CompletionTexts::require_short(size_t bytes, const char* param) const {
  const size_t most = static_cast<size_t>(sequence_length_) * longest_token_;
  if (bytes <= most) return;
  throw OpenAiError(
      concat("'", param, "' has ", bytes, " bytes: the model sees ", sequence_length_, " tokens, which are at most ", most, " bytes"),
      param, "context_length_exceeded");
}

std::vector<int64_t> CompletionTexts::encode(const OpenAiPrompt& prompt) const {
  if (const auto* tokens = std::get_if<std::vector<int64_t>>(&prompt)) return *tokens;
  const std::string& text = std::get<std::string>(prompt);
  require_short(text.size(), "prompt");
  const std::vector<int32_t> ids = tokenizer_.encode(text);
  return {ids.begin(), ids.end()};
}

std::vector<int64_t> CompletionTexts::encode(const Messages& messages) const {
  if (!encoder_) {
    throw OpenAiError("the model has no chat template: ask /v1/completions, or start the server with --chat-template FILE", "messages",
                      "no_chat_template");
  }
  size_t bytes = 0;
  for (const auto& message : messages) bytes += message.at("content").get_ref<const std::string&>().size();
  require_short(bytes, "messages");
  try {
    const std::vector<int32_t> ids = encoder_->encode_question(messages);
    return {ids.begin(), ids.end()};
  } catch (const DataError& error) {
    throw OpenAiError(error.what(), "messages", "invalid_value");
  }
}

int32_t CompletionTexts::end(bool is_chat) const { return is_chat && end_of_turn_ ? *end_of_turn_ : tokenizer_.end_of_document(); }

std::string CompletionTexts::text_of(const OpenAiPrompt& prompt) const {
  if (const auto* text = std::get_if<std::string>(&prompt)) return *text;
  std::vector<int32_t> known;
  for (const int64_t id : std::get<std::vector<int64_t>>(prompt)) {
    if (id < tokenizer_.vocabulary()) known.push_back(static_cast<int32_t>(id));
  }
  return well_formed(tokenizer_.decode(known));
}

std::string CompletionTexts::bytes_of(int64_t token) const {
  return token < tokenizer_.vocabulary() ? tokenizer_.text(static_cast<int32_t>(token)) : "";
}

std::string CompletionTexts::name_of(int64_t token) const {
  if (token >= tokenizer_.vocabulary())
    return concat("<", token, ">");  // a model may have more tokens than its tokenizer, to a round number
  const std::string& bytes = tokenizer_.text(static_cast<int32_t>(token));
  if (bytes.empty()) return well_formed(tokenizer_.piece(static_cast<int32_t>(token)));
  if (valid_utf8_prefix(bytes) == bytes.size()) return bytes;
  std::string name = "bytes:";
  for (const char byte : bytes) {
    std::array<char, 8> text{};
    std::snprintf(text.data(), text.size(), "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
    name += text.data();
  }
  return name;
}

}  // namespace pimoe
