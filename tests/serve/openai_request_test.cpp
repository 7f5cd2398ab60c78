#include "serve/openai_request.h"

#include "base/text.h"
#include "serve/openai_error.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

OpenAiLimits limits() {
  OpenAiLimits of;
  of.vocabulary = 100;
  of.choices = 8;
  return of;
}

OpenAiRequest text(const std::string& members) { return read_completion_request(concat("{", members, "}"), limits()); }
OpenAiRequest chat(const std::string& members) {
  return read_chat_request(concat(R"({"messages": [{"role": "user", "content": "x"}])", members, "}"), limits());
}

/// @returns the error's code and message, or "" where there is none
template <class Read>
std::string refusal(Read read) {
  try {
    read();
  } catch (const OpenAiError& error) {
    return concat(error.code(), ": ", error.what());
  }
  return "";
}

TEST(CompletionRequest, TakesThePromptInItsFourForms) {
  EXPECT_EQ(text(R"("prompt": "a")").prompts, (std::vector<OpenAiPrompt>{"a"}));
  EXPECT_EQ(text(R"("prompt": ["a", ""])").prompts, (std::vector<OpenAiPrompt>{"a", ""}));
  EXPECT_EQ(text(R"("prompt": [0, 99])").prompts, (std::vector<OpenAiPrompt>{std::vector<int64_t>{0, 99}}));
  EXPECT_EQ(text(R"("prompt": [[1], []])").prompts, (std::vector<OpenAiPrompt>{std::vector<int64_t>{1}, std::vector<int64_t>{}}));
  EXPECT_EQ(text("").prompts, (std::vector<OpenAiPrompt>{""}));
}

TEST(CompletionRequest, HasTheApisDefaults) {
  const OpenAiRequest request = text(R"("prompt": "a", "stop": null, "logprobs": null, "stream": false)");
  EXPECT_EQ(request.max_tokens, 16);
  EXPECT_EQ(request.temperature, 1.0);
  EXPECT_EQ(request.top_p, 1.0);
  EXPECT_EQ(request.n, 1);
  EXPECT_FALSE(request.top_logprobs || request.seed || request.stream || request.echo);
  EXPECT_FALSE(chat("").max_tokens) << "as many as fit";
}

TEST(CompletionRequest, TakesWhatOnlyDescribesItAndWhatAsksForNothing) {
  EXPECT_EQ(
      refusal([] {
        text(
            R"("user": "me", "metadata": {"a": "b"}, "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "suffix": null)");
      }),
      "");
  EXPECT_EQ(
      refusal([] {
        chat(
            R"(, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"], "store": false, "parallel_tool_calls": true)");
      }),
      "");
}

TEST(CompletionRequest, RefusesWhatItCannotDoAndWhatItDoesNotKnow) {
  for (const char* member : {R"("presence_penalty": 0.1)", R"("logit_bias": {"5": 1})", R"("suffix": "x")", R"("best_of": 2)"}) {
    EXPECT_TRUE(refusal([&] { text(member); }).starts_with("unsupported_parameter")) << member;
  }
  for (const char* member : {R"(, "tools": [{"type": "function"}])", R"(, "response_format": {"type": "json_object"})",
                             R"(, "tool_choice": "required")", R"(, "reasoning_effort": "high")"}) {
    EXPECT_TRUE(refusal([&] { chat(member); }).starts_with("unsupported_parameter")) << member;
  }
  EXPECT_EQ(refusal([] { text(R"("max_token": 5)"); }),
            "unknown_parameter: 'max_token' is no member of a completion request: did you mean 'max_tokens'?");
  EXPECT_TRUE(refusal([] { text(R"("stream": true, "stream_options": {"usage": true})"); }).starts_with("unknown_parameter"));
}

TEST(CompletionRequest, NamesTheMemberAndTheRuleOfAWrongValue) {
  EXPECT_EQ(refusal([] { text(R"("temperature": 3)"); }), "invalid_value: 'temperature' (3) must be a number in [0, 2]");
  EXPECT_EQ(refusal([] { text(R"("n": 1.5)"); }), "invalid_value: 'n' (1.5) must be a whole number in [1, 8]");
  EXPECT_TRUE(refusal([] { text(R"("stop": "")"); }).starts_with("invalid_value: 'stop' (\"\") must be a string"));
  for (const char* member : {R"("max_tokens": -1)",
                             R"("max_tokens": 1e3)",
                             R"("max_tokens": 18446744073709551616)",
                             R"("n": 18446744073709551615)",
                             R"("top_p": 1.1)",
                             R"("top_p": "1")",
                             R"("stream": 1)",
                             R"("logprobs": true)",
                             R"("logprobs": 21)",
                             R"("stop": "")",
                             R"("stop": [])",
                             R"("stop": [1])",
                             R"("stop": ["a","b","c","d","e"])",
                             R"("echo": "yes")",
                             R"("seed": 1.5)",
                             R"("prompt": [])",
                             R"("prompt": 5)",
                             R"("prompt": [1, "a"])",
                             R"("prompt": ["a", 1])",
                             R"("prompt": [[1], 2])",
                             R"("prompt": [100])",
                             R"("prompt": [-1])",
                             R"("prompt": [1.0])",
                             R"("prompt": {"a": 1})",
                             R"("prompt": ["a","b","c","d","e"], "n": 2)",
                             R"("stream_options": {})",
                             R"("model": 5)"}) {
    const std::string said = refusal([&] { text(member); });
    if (std::string(member) == R"("stop": [])") {
      EXPECT_EQ(said, "") << "none";
    } else {
      EXPECT_TRUE(said.starts_with("invalid_value")) << member << said;
    }
  }
}

TEST(CompletionRequest, RefusesWhatIsNoJson) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  for (const std::string& body :
       {std::string(), std::string("null"), std::string("[1]"), std::string("{\"prompt\": \"\xff\"}"),
        std::string("{\"prompt\": \"\\ud800\"}"), std::string("{\"a\": NaN}"), concat("{\"prompt\": ", deep, "}"),
        std::string("{\"prompt\": 1, \"prompt\": 2}"), std::string("{\"prompt\": \"a\"} x"), std::string(1, '\0')}) {
    EXPECT_TRUE(refusal([&] { read_completion_request(body, limits()); }).starts_with("invalid_json")) << body.substr(0, 40);
  }
}

TEST(CompletionRequest, CostsLittleForManyKeys) {
  std::string body = "{";
  for (int key = 0; key < 300'000; ++key) body += concat("\"k", key, "\":1,");
  body.back() = '}';
  EXPECT_TRUE(refusal([&] { read_completion_request(body, limits()); }).starts_with("unknown_parameter"));
}

TEST(ChatRequest, ReadsMessagesAsTheTemplateIsGivenThem) {
  const OpenAiRequest request = read_chat_request(
      R"({"messages": [{"role": "developer", "content": "be short"}, {"role": "user", "name": "me", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": null}]})",
      limits());
  EXPECT_EQ(request.messages,
            Messages::parse(
                R"([{"role": "system", "content": "be short"}, {"role": "user", "content": "ab"}, {"role": "assistant", "content": ""}])"));
  EXPECT_EQ(chat(R"(, "logprobs": true)").top_logprobs, 0);
  EXPECT_EQ(chat(R"(, "logprobs": true, "top_logprobs": 5)").top_logprobs, 5);
}

TEST(ChatRequest, RefusesMessagesThatCannotBeMeant) {
  for (const char* messages :
       {"[]", "{}", "5", "[5]", R"([{"content": "x"}])", R"([{"role": "user"}])", R"([{"role": "tool", "content": "x"}])",
        R"([{"role": "user", "content": 5}])", R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])"}) {
    EXPECT_TRUE(refusal([&] { read_chat_request(concat("{\"messages\": ", messages, "}"), limits()); }).starts_with("invalid_value"))
        << messages;
  }
  EXPECT_TRUE(refusal([] {
                read_chat_request(R"({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]})", limits());
              }).starts_with("unsupported_parameter"));
  EXPECT_TRUE(refusal([] { chat(R"(, "top_logprobs": 5)"); }).starts_with("invalid_value"));
  EXPECT_TRUE(refusal([] { chat(R"(, "max_tokens": 0)"); }).starts_with("invalid_value"));
}

}  // namespace
}  // namespace pimoe
