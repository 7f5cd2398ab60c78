#include "serve/openai_answer.h"

#include "base/text.h"
#include "checkpoint/step_folders.h"

#include <algorithm>

namespace pimoe {
namespace {

constexpr double kLeastLogprob = -9999.0;  // JSON has no infinity

/// A double that reads back as the same bits: nlohmann writes the fewest digits that do.
double finite(double logprob) { return logprob >= kLeastLogprob ? logprob : kLeastLogprob; }

OpenAiJson bytes_as_numbers(const std::string& bytes) {
  OpenAiJson list = OpenAiJson::array();
  for (const char byte : bytes) list.push_back(static_cast<unsigned>(static_cast<unsigned char>(byte)));
  return list;
}

/// token -> log-probability. Of two tokens with one name the likelier stands for both, so that the largest is always there.
OpenAiJson top_by_name(const GeneratedToken& token, const CompletionTexts& texts) {
  std::vector<std::pair<std::string, double>> named;  // likeliest first
  for (const auto& [id, logprob] : token.top) named.emplace_back(texts.name_of(id), finite(logprob));
  if (named.empty()) named.emplace_back(texts.name_of(token.token), finite(*token.logprob));
  OpenAiJson object = OpenAiJson::object();
  for (const auto& [name, logprob] : named) {
    if (!object.contains(name)) object[name] = logprob;
  }
  const std::string own = texts.name_of(token.token);
  if (!object.contains(own)) object[own] = finite(*token.logprob);
  return object;
}

OpenAiJson completion_logprobs(const OpenAiChoice& choice, const CompletionTexts& texts) {
  OpenAiJson names = OpenAiJson::array(), values = OpenAiJson::array(), top = OpenAiJson::array(), offsets = OpenAiJson::array();
  int64_t offset = choice.text_offset;
  for (const GeneratedToken& token : choice.tokens) {
    names.push_back(texts.name_of(token.token));
    values.push_back(token.logprob ? OpenAiJson(finite(*token.logprob)) : OpenAiJson(nullptr));
    top.push_back(token.logprob ? top_by_name(token, texts) : OpenAiJson(nullptr));
    offsets.push_back(offset);
    offset += characters_of(texts.bytes_of(token.token));
  }
  return {{"tokens", names}, {"token_logprobs", values}, {"top_logprobs", top}, {"text_offset", offsets}};
}

OpenAiJson chat_entry(int64_t token, double logprob, const CompletionTexts& texts) {
  return {{"token", texts.name_of(token)}, {"logprob", finite(logprob)}, {"bytes", bytes_as_numbers(texts.bytes_of(token))}};
}

OpenAiJson chat_logprobs(const OpenAiChoice& choice, const CompletionTexts& texts) {
  OpenAiJson content = OpenAiJson::array();
  for (const GeneratedToken& token : choice.tokens) {
    OpenAiJson entry = chat_entry(token.token, token.logprob.value_or(0.0), texts);
    entry["top_logprobs"] = OpenAiJson::array();
    for (const auto& [id, logprob] : token.top) entry["top_logprobs"].push_back(chat_entry(id, logprob, texts));
    content.push_back(std::move(entry));
  }
  return {{"content", content}, {"refusal", nullptr}};
}

OpenAiJson logprobs_of(const OpenAiAnswerFacts& facts, const OpenAiChoice& choice, const CompletionTexts& texts) {
  if (!facts.has_logprobs) return nullptr;
  return facts.is_chat ? chat_logprobs(choice, texts) : completion_logprobs(choice, texts);
}

OpenAiJson experts_of(const OpenAiChoice& choice, const CompletionTexts& texts) {
  OpenAiJson list = OpenAiJson::array();
  for (const GeneratedToken& token : choice.tokens) list.push_back({{"token", texts.name_of(token.token)}, {"layers", token.experts}});
  return list;
}

OpenAiJson finish_reason(const std::optional<GenerationEnding>& ending) {
  if (!ending) return nullptr;
  return *ending == GenerationEnding::kLength ? "length" : "stop";
}

OpenAiJson usage_json(const OpenAiUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

OpenAiJson frame(const OpenAiAnswerFacts& facts, bool is_chunk) {
  const char* object = !facts.is_chat ? "text_completion" : is_chunk ? "chat.completion.chunk" : "chat.completion";
  return {{"id", concat(facts.is_chat ? "chatcmpl-" : "cmpl-", facts.id)},
          {"object", object},
          {"created", facts.created},
          {"model", facts.model},
          {"system_fingerprint", step_name(facts.step)}};
}

std::string text_of(const OpenAiJson& json) { return json.dump(-1, ' ', false, OpenAiJson::error_handler_t::replace); }

}  // namespace

int64_t characters_of(const std::string& bytes) {
  return std::count_if(bytes.begin(), bytes.end(), [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; });
}

std::string whole_answer(const OpenAiAnswerFacts& facts, const std::vector<OpenAiChoice>& choices, const OpenAiUsage& usage,
                         const CompletionTexts& texts) {
  OpenAiJson answer = frame(facts, /*is_chunk=*/false);
  answer["choices"] = OpenAiJson::array();
  for (const OpenAiChoice& choice : choices) {
    OpenAiJson one = {{"index", choice.index}};
    if (facts.is_chat) {
      one["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      one["text"] = choice.text;
    }
    one["logprobs"] = logprobs_of(facts, choice, texts);
    one["finish_reason"] = finish_reason(choice.ending);
    if (facts.has_experts) one["pimoe_experts"] = experts_of(choice, texts);
    answer["choices"].push_back(std::move(one));
  }
  answer["usage"] = usage_json(usage);
  return text_of(answer) + "\n";
}

std::string stream_event(const std::string& body) { return concat("data: ", body, "\n\n"); }

std::string stream_chunk(const OpenAiAnswerFacts& facts, const OpenAiChoice& choice, bool is_first, bool has_usage,
                         const CompletionTexts& texts) {
  OpenAiJson chunk = frame(facts, /*is_chunk=*/true);
  OpenAiJson one = {{"index", choice.index}};
  if (facts.is_chat) {
    one["delta"] = OpenAiJson::object();
    if (is_first) one["delta"]["role"] = "assistant";
    if (is_first || !choice.text.empty()) one["delta"]["content"] = choice.text;
  } else {
    one["text"] = choice.text;
  }
  one["logprobs"] = facts.has_logprobs && !choice.tokens.empty() ? logprobs_of(facts, choice, texts) : OpenAiJson(nullptr);
  one["finish_reason"] = finish_reason(choice.ending);
  if (facts.has_experts) one["pimoe_experts"] = experts_of(choice, texts);
  chunk["choices"] = OpenAiJson::array({std::move(one)});
  if (has_usage) chunk["usage"] = nullptr;
  return stream_event(text_of(chunk));
}

std::string stream_usage(const OpenAiAnswerFacts& facts, const OpenAiUsage& usage) {
  OpenAiJson chunk = frame(facts, /*is_chunk=*/true);
  chunk["choices"] = OpenAiJson::array();
  chunk["usage"] = usage_json(usage);
  return stream_event(text_of(chunk));
}

}  // namespace pimoe
