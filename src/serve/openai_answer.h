#pragma once

#include "serve/completion_texts.h"
#include "serve/generation_request.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// What all of a request's answers say of it.
struct OpenAiAnswerFacts {
  bool is_chat = false;
  std::string id;  ///< of the request
  std::string model;
  int64_t created = 0;  ///< seconds since 1970
  int64_t step = 0;     ///< of training
  bool has_logprobs = false;
  bool has_experts = false;
};

struct OpenAiUsage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
};

/// One choice, or what has come of it since the last chunk.
struct OpenAiChoice {
  int64_t index = 0;
  std::string text;
  std::vector<GeneratedToken> tokens;  ///< kept where the answer tells of them
  int64_t text_offset = 0;             ///< characters of the text before these tokens
  std::optional<GenerationEnding> ending;
};

using OpenAiJson = nlohmann::ordered_json;

/// @returns the body of a whole answer
std::string whole_answer(const OpenAiAnswerFacts& facts, const std::vector<OpenAiChoice>& choices, const OpenAiUsage& usage,
                         const CompletionTexts& texts);

/// @returns a server-sent event: "data: {...}\n\n". @param is_first  of its choice: chats name the speaker in it
std::string stream_chunk(const OpenAiAnswerFacts& facts, const OpenAiChoice& choice, bool is_first, bool has_usage,
                         const CompletionTexts& texts);
std::string stream_usage(const OpenAiAnswerFacts& facts, const OpenAiUsage& usage);
/// @param body  JSON without line ends inside
std::string stream_event(const std::string& body);
inline constexpr const char* kStreamEnd = "data: [DONE]\n\n";

/// @returns how many characters of the text the tokens' bytes are: those that begin in them
int64_t characters_of(const std::string& bytes);

}  // namespace pimoe
