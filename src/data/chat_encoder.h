#pragma once

#include "data/conversation.h"
#include "data/tokenizer.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// A conversation as a model reads it.
struct EncodedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> learned;  ///< of each id: 1 where it is the assistant's
};

/// Turns conversations into tokens. Thread-safe.
///
/// The template's whole text is encoded as one, so that tokens are those of transformers' apply_chat_template; special tokens that it names become their
/// ids, and nothing is put in front. A token is learned if any of its text is an answer's (chat_template.h), as transformers' assistant
/// mask has it; white space behind an answer's last special token, its end of turn, is not, as nobody waits for it.
class ChatEncoder {
 public:
  /// Both must outlive it. @param chat  null: none; then a prompt and an answer are two texts, one behind the other, and the document's end is learned
  ChatEncoder(const Tokenizer& tokenizer, const ChatTemplate* chat) : tokenizer_(tokenizer), chat_(chat) {}

  /// @throws DataError saying what is wrong with the conversation: what the template refuses, a role that it passes over, tokens that cannot be told
  ///         apart, an answer without a token
  EncodedChat encode(const Conversation& conversation) const;
  /// What the assistant is asked with: the template's text up to where it speaks. @throws DataError likewise
  std::vector<int32_t> encode_question(const Messages& messages) const;
  /// The special token with which the assistant's turn ends; nothing where the template ends it by words alone.
  std::optional<int32_t> end_of_turn() const;

 private:
  EncodedChat encode_plain(const Conversation& conversation) const;
  void require_known_roles(const Conversation& conversation, const std::string& text) const;
  /// Marks the tokens that touch an answer.
  void mark(const ChatText& text, EncodedChat& encoded) const;

  const Tokenizer& tokenizer_;
  const ChatTemplate* chat_;
};

}  // namespace pimoe
