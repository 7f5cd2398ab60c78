/// A body of /v1/completions or /v1/chat/completions: it is read, with what it promises, or refused in the API's words.
///
/// Input: u8, of which the lowest bit is 1 for a chat | body

#include "fuzz/fuzz_target.h"

#include "base/utf8.h"
#include "serve/openai_error.h"
#include "serve/openai_request.h"

#include <nlohmann/json.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  using namespace pimoe;
  if (count == 0) return 0;
  OpenAiLimits limits;
  limits.vocabulary = 100;
  const std::string body(reinterpret_cast<const char*>(bytes) + 1, count - 1);
  try {
    const OpenAiRequest request = (bytes[0] & 1) != 0 ? read_chat_request(body, limits) : read_completion_request(body, limits);
    require(request.n >= 1 && request.n <= limits.choices, "n is in its limits");
    require(static_cast<int64_t>(request.prompts.size()) * request.n <= limits.choices, "choices are in their limits");
    require(request.temperature >= 0 && request.temperature <= 2, "the temperature is a number");
    require(request.top_p >= 0 && request.top_p <= 1, "top_p is a number");
    require(request.is_chat ? !request.messages.empty() : !request.prompts.empty(), "something is asked");
    for (const OpenAiPrompt& prompt : request.prompts) {
      if (const auto* tokens = std::get_if<std::vector<int64_t>>(&prompt)) {
        for (const int64_t token : *tokens) require(token >= 0 && token < limits.vocabulary, "tokens are in the vocabulary");
      } else {
        const std::string& text = std::get<std::string>(prompt);
        require(valid_utf8_prefix(text) == text.size(), "texts are UTF-8");
      }
    }
    for (const std::string& stop : request.stops) require(!stop.empty(), "no stop text is empty");
  } catch (const OpenAiError& error) {
    const auto answer = nlohmann::json::parse(error.response().body);  // throws where a refusal is no JSON
    require(answer.at("error").at("message").is_string(), "a refusal says why");
  }
  return 0;
}
