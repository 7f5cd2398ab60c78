#pragma once

#include "data/chat_template.h"

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace pimoe {

/// How large a request may be, beside its bytes.
struct OpenAiLimits {
  int64_t choices = 256;      ///< prompts times n
  int64_t top_logprobs = 20;  ///< of a token
  int64_t stops = 4;
  int64_t stop_bytes = 1024;  ///< of each
  int64_t vocabulary = 0;     ///< token ids are below it
};

using OpenAiPrompt = std::variant<std::string, std::vector<int64_t>>;

/// A request of /v1/completions or /v1/chat/completions that was read and checked.
struct OpenAiRequest {
  bool is_chat = false;
  std::string model;                  ///< empty: whichever is served
  std::vector<OpenAiPrompt> prompts;  ///< of a completion
  Messages messages;                  ///< of a chat: [{"role", "content"}]
  std::optional<int64_t> max_tokens;  ///< nothing (a chat alone): as many as fit
  int64_t n = 1;
  double temperature = 1.0;
  double top_p = 1.0;
  int64_t top_k = 0;                ///< ours
  double repetition_penalty = 1.0;  ///< ours
  std::optional<uint64_t> seed;
  std::vector<std::string> stops;
  std::optional<int64_t> top_logprobs;  ///< log-probabilities of tokens, and of so many of the likeliest
  bool echo = false;
  bool stream = false;
  bool include_usage = false;
  bool trace_experts = false;  ///< ours: pimoe_trace_experts
};

/// Reads a body. What a user would miss if it were passed over is refused, with the member's name and the nearest known one; what only describes the
/// request (user, metadata) is not looked at.
///
/// @throws OpenAiError, 400  @cost linear in the body but for the sorting of keys; about 40 times its bytes of memory at worst
OpenAiRequest read_completion_request(const std::string& body, const OpenAiLimits& limits);
OpenAiRequest read_chat_request(const std::string& body, const OpenAiLimits& limits);

}  // namespace pimoe
