#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pimoe {

/// A conversation: [{"role": "user", "content": "..."}, ...], as the template is given it.
using Messages = nlohmann::ordered_json;

/// A stretch of a text, [begin, end) in bytes.
using ByteSpan = std::pair<size_t, size_t>;

/// The words of a conversation as a model is given them, and which of them the assistant is to learn.
struct ChatText {
  std::string text;
  std::vector<ByteSpan> answers;  ///< in order, apart from each other
};

/// A chat template of Hugging Face's: Jinja, by the engine of llama.cpp (third_party/llama_jinja). Gives what
/// transformers' apply_chat_template gives. Thread-safe.
///
/// A template is a program that somebody else wrote: one that loops, nests or writes without end is an error, found after a bounded
/// number of steps (a second or two).
class ChatTemplate {
 public:
  /// @param source          Jinja
  /// @param name            of its file, for messages
  /// @param special_tokens  bos_token, eos_token, ...: what the template may call by these names
  /// @throws DataError if it is no template
  ChatTemplate(const std::string& source, std::string name, nlohmann::ordered_json special_tokens);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;

  const std::string& name() const { return name_; }

  /// @param tools                  as apply_chat_template takes them, or null
  /// @param add_generation_prompt  ends with the words that ask the assistant to speak
  /// @throws DataError with the template's own complaint, or that it asked for too much
  std::string render(const Messages& messages, bool add_generation_prompt, const Messages& tools = nullptr) const;

  /// Renders a conversation and finds the assistant's part of it.
  ///
  /// Where the template has {% generation %} blocks these are the answers. Elsewhere the answer of message i is what messages[:i + 1] has behind
  /// messages[:i] with the generation prompt, less white space: the text that a model is to write when it is asked to, its end of
  /// turn included. @throws DataError where one is not the beginning of the other, so that the model would be asked with other words than it
  /// learned from
  /// @param first  messages before it are not learned, whoever speaks
  ChatText render_with_answers(const Messages& messages, size_t first = 0, const Messages& tools = nullptr) const;

  /// @returns whether the template says by itself what is to be learned
  bool has_generation_blocks() const { return has_generation_blocks_; }

 private:
  struct Program;
  std::string run(const Program& program, const Messages& messages, bool add_generation_prompt, const Messages& tools) const;
  ChatText marked_answers(const Messages& messages, size_t first, const Messages& tools) const;
  ChatText answers_by_prefixes(const Messages& messages, size_t first, const Messages& tools) const;

  std::string name_;
  nlohmann::ordered_json special_tokens_;
  bool has_generation_blocks_ = false;
  std::unique_ptr<const Program> plain_;
  std::unique_ptr<const Program> marked_;  ///< with marks around generation blocks; null where there are none
};

/// Finds the chat template of a tokenizer: chat_template.jinja, chat_template.json, or chat_template of tokenizer_config.json beside it, the first that is
/// there; of several the one called "default". The names of special tokens are from tokenizer_config.json and special_tokens_map.json.
/// @param tokenizer  its file
/// @param given      a file with a template to take instead; empty: none
/// @param end_token  what eos_token is where no file says it
/// @throws DataError if there is none, or it is none; IoError
ChatTemplate find_chat_template(const std::filesystem::path& tokenizer, const std::filesystem::path& given, const std::string& end_token);

}  // namespace pimoe
