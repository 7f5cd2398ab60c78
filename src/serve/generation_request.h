#pragma once

#include "model/sampling.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// One text to continue, as the engine takes it.
struct GenerationRequest {
  std::vector<int64_t> prompt;    ///< token ids in [0, V); empty: the model's own beginning, as `generate` has it with an empty prompt
  int64_t max_tokens = 16;        ///< new tokens at most; 0 only scores the prompt
  SamplingOptions sampling;       ///< its `tokens` is not looked at; `stop_token` ends the text with kEndOfDocument, -1: none does
  std::vector<std::string> stop;  ///< texts that end the continuation and are cut off; none empty
  std::optional<int64_t> top_logprobs;  ///< log-probabilities of each token, and of so many of the likeliest (0: the token's own alone)
  bool score_prompt = false;            ///< with top_logprobs: of the prompt's tokens too (the API's `echo`)
  bool trace_experts = false;           ///< also each token's experts in each layer
  int priority = 0;                     ///< higher goes first; equal ones by clients' turns, then in order of arrival
  size_t client = 0;                    ///< whose it is: clients share the engine out (engine.h)
};

enum class GenerationEnding {
  kLength,         ///< there are max_tokens tokens
  kStop,           ///< one of the stop texts came
  kEndOfDocument,  ///< sampling.stop_token was drawn, which is not among the tokens
  kCancelled,
  kFailed,
};

/// One token that was scored or drawn.
struct GeneratedToken {
  int64_t token = 0;
  bool of_prompt = false;
  /// What it adds to the text, whole UTF-8 characters (bytes that are none: U+FFFD); empty while a character is incomplete, or a stop text may have
  /// begun.
  std::string text;
  std::optional<double> logprob;  ///< of the model's own distribution, before temperature; none for the first token of a prompt
  std::vector<std::pair<int64_t, double>> top;  ///< the likeliest, most likely first, of equals the lower id; the same numbers as logprob
  /// [MoE layer][choice], with trace_experts: of the position that this token was predicted at, the one before it. None where logprob has none.
  std::vector<std::vector<int32_t>> experts;
};

/// What the listener hears, in order; the last has `ending`.
struct GenerationUpdate {
  std::vector<GeneratedToken> tokens;
  std::optional<GenerationEnding> ending;
  std::optional<int64_t> step;  ///< of training, of the weights that continue the text; none where nothing was computed
  std::string tail;   ///< with kEndOfDocument and kCancelled: text that was held back, of no token of this update, and belongs to the text
  std::string error;  ///< with kFailed
};

/// Called on the engine's thread, one update of a request after the other; must not block or throw. It may call the engine.
using GenerationListener = std::function<void(const GenerationUpdate&)>;

}  // namespace pimoe
