#pragma once

#include "data/chat_encoder.h"
#include "data/tokenizer.h"
#include "serve/openai_request.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// What the model reads of a request's words, and what its tokens are called. Thread-safe.
class CompletionTexts {
 public:
  /// Both must outlive it. @param chat  null: the model has no chat template, and chats are refused
  CompletionTexts(const Tokenizer& tokenizer, const ChatTemplate* chat, int64_t vocabulary, int64_t sequence_length);

  int64_t vocabulary() const { return vocabulary_; }
  int64_t sequence_length() const { return sequence_length_; }
  bool can_chat() const { return chat_ != nullptr; }

  /// @throws OpenAiError for a text that cannot fit, before it is encoded; for chats also where there is no template, or it refuses the messages
  std::vector<int64_t> encode(const OpenAiPrompt& prompt) const;
  std::vector<int64_t> encode(const Messages& messages) const;
  /// The token that ends an answer.
  int32_t end(bool is_chat) const;

  /// @returns the text of a prompt, well-formed UTF-8
  std::string text_of(const OpenAiPrompt& prompt) const;
  /// @returns what a token adds to a text, as bytes
  std::string bytes_of(int64_t token) const;
  /// @returns the token's name in answers: its text; its piece where it has none (</s>); "bytes:\\xe2\\x80" where it is part of a character
  std::string name_of(int64_t token) const;

 private:
  void require_short(size_t bytes, const char* param) const;

  const Tokenizer& tokenizer_;
  const ChatTemplate* chat_;
  std::optional<ChatEncoder> encoder_;
  std::optional<int32_t> end_of_turn_;
  int64_t vocabulary_;
  int64_t sequence_length_;
  size_t longest_token_ = 1;
};

}  // namespace pimoe
