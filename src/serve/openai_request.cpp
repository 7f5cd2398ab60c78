#include "serve/openai_request.h"

#include "base/number_text.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "base/utf8.h"
#include "serve/openai_error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

namespace pimoe {
namespace {

using Json = nlohmann::json;  // sorted: parsing what keeps its order is quadratic in the keys

constexpr int64_t kMostTokens = 1'000'000'000;

/// Members that only describe a request, or say what is done here anyway.
constexpr std::array kDescriptions = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls"};

/// Members of the API that are not implemented: one is taken where it asks for nothing.
struct NotHere {
  const char* name;
  bool (*asks_for_nothing)(const Json& value);
};

bool is_nothing(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) || (value.is_number() && value.get<double>() == 0) ||
         (value.is_structured() && value.empty());
}

constexpr std::array kNotHere = {
    NotHere{"presence_penalty", is_nothing},
    NotHere{"frequency_penalty", is_nothing},
    NotHere{"logit_bias", is_nothing},
    NotHere{"suffix", [](const Json& value) { return is_nothing(value) || value == ""; }},
    NotHere{"best_of", [](const Json& value) { return is_nothing(value) || value == 1; }},
    NotHere{"tools", is_nothing},
    NotHere{"tool_choice", [](const Json& value) { return is_nothing(value) || value == "none" || value == "auto"; }},
    NotHere{"functions", is_nothing},
    NotHere{"function_call", [](const Json& value) { return is_nothing(value) || value == "none" || value == "auto"; }},
    NotHere{"response_format",
            [](const Json& value) {
              return is_nothing(value) || value == Json{{"type", "text"}};
            }},
    NotHere{"modalities", [](const Json& value) { return is_nothing(value) || value == Json{"text"}; }},
    NotHere{"audio", is_nothing},
    NotHere{"prediction", is_nothing},
    NotHere{"web_search_options", [](const Json& value) { return value.is_null(); }},
    NotHere{"reasoning_effort", [](const Json& value) { return is_nothing(value) || value == "none"; }},
    NotHere{"verbosity", is_nothing},
};

/// Of what is not repeated.
const char* type_name(const Json& value) {
  if (value.is_string()) return "a string";
  return value.is_array() ? "a list" : "an object";
}

[[noreturn]] void refuse(const std::string& name, const Json& value, const std::string& rule) {
  // What a client wrote of text is not repeated.
  const bool is_shown = value.is_primitive() && (!value.is_string() || value.get_ref<const std::string&>().empty());
  const std::string text = is_shown ? concat("'", name, "' (", value.dump(), ") must be ", rule)
                                    : concat("'", name, "' is ", type_name(value), ": it must be ", rule);
  throw OpenAiError(text, name, "invalid_value");
}

/// The members of one object, each looked at once; `finish` refuses those that nobody asked for.
class Members {
 public:
  explicit Members(const Json& object) : object_(object) {}

  /// @returns the member's value; null where it is missing, or is null
  const Json* find(const char* name) {
    known_.emplace_back(name);
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  bool flag(const char* name) {
    const Json* value = find(name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) refuse(name, *value, "true or false");
    return value->get<bool>();
  }

  std::optional<int64_t> whole(const char* name, int64_t least, int64_t most) {
    const Json* value = find(name);
    if (value == nullptr) return std::nullopt;
    const bool fits = value->is_number_integer() &&
                      !(value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) &&
                      value->get<int64_t>() >= least && value->get<int64_t>() <= most;
    if (!fits) refuse(name, *value, concat("a whole number in [", least, ", ", most, "]"));
    return value->get<int64_t>();
  }

  double number(const char* name, double otherwise, double least, double most) {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_number() || !(value->get<double>() >= least && value->get<double>() <= most)) {
      refuse(name, *value, concat("a number in [", shortest(least), ", ", shortest(most), "]"));
    }
    return value->get<double>();
  }

  std::string text(const char* name) {
    const Json* value = find(name);
    if (value == nullptr) return "";
    if (!value->is_string()) refuse(name, *value, "a string");
    return value->get<std::string>();
  }

  void finish(const std::string& of) {
    for (const NotHere& member : kNotHere) {
      known_.emplace_back(member.name);
      const auto found = object_.find(member.name);
      if (found != object_.end() && !member.asks_for_nothing(*found)) {
        throw OpenAiError(concat("'", member.name, "' is not supported here: leave it out"), member.name, "unsupported_parameter");
      }
    }
    known_.insert(known_.end(), kDescriptions.begin(), kDescriptions.end());
    for (const auto& [name, value] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
      const std::string shown = printable(name.substr(0, character_boundary(name, kLongestName)));
      const std::string nearest = name.size() <= kLongestName ? nearest_name(name, known_) : "";
      throw OpenAiError(concat("'", shown, "' is no member of ", of, nearest.empty() ? "" : concat(": did you mean '", nearest, "'?")),
                        shown, "unknown_parameter");
    }
  }

 private:
  static constexpr size_t kLongestName = 64;
  const Json& object_;
  std::vector<std::string> known_;
};

Json parse(const std::string& body) {
  try {
    return parse_sorted_strict_json(body, "the request's body");
  } catch (const DataError& error) {
    throw OpenAiError(error.what(), "", "invalid_json");
  }
}

std::vector<std::string> read_stops(Members& members, const OpenAiLimits& limits) {
  const Json* value = members.find("stop");
  if (value == nullptr) return {};
  const std::string rule =
      concat("a string, or a list of at most ", limits.stops, ", none empty or longer than ", limits.stop_bytes, " bytes");
  std::vector<std::string> stops;
  for (const Json& each : value->is_array() ? *value : Json::array({*value})) {
    if (!each.is_string() || each.get_ref<const std::string&>().empty() ||
        each.get_ref<const std::string&>().size() > static_cast<size_t>(limits.stop_bytes)) {
      refuse("stop", each, rule);
    }
    stops.push_back(each);
  }
  if (stops.size() > static_cast<size_t>(limits.stops)) refuse("stop", *value, rule);
  return stops;
}

/// What both kinds have.
void read_common(Members& members, const OpenAiLimits& limits, OpenAiRequest& request) {
  request.model = members.text("model");
  request.n = members.whole("n", 1, limits.choices).value_or(1);
  request.temperature = members.number("temperature", 1.0, 0.0, 2.0);
  request.top_p = members.number("top_p", 1.0, 0.0, 1.0);
  request.top_k = members.whole("top_k", 0, kMostTokens).value_or(0);
  request.repetition_penalty = members.number("repetition_penalty", 1.0, 0.01, 100.0);
  if (const auto seed = members.whole("seed", INT64_MIN, INT64_MAX)) request.seed = static_cast<uint64_t>(*seed);
  request.stops = read_stops(members, limits);
  request.stream = members.flag("stream");
  request.trace_experts = members.flag("pimoe_trace_experts");
  if (const Json* options = members.find("stream_options")) {
    if (!options->is_object()) refuse("stream_options", *options, "an object");
    if (!request.stream) throw OpenAiError("'stream_options' is for streams: 'stream' is not true", "stream_options", "invalid_value");
    Members inner(*options);
    request.include_usage = inner.flag("include_usage");
    inner.flag("include_obfuscation");  // padding against those who watch the lengths of TLS records: none is made
    inner.finish("stream_options");
  }
}

bool is_token(const Json& value, const OpenAiLimits& limits) {
  return value.is_number_unsigned() && value.get<uint64_t>() < static_cast<uint64_t>(limits.vocabulary);
}

std::vector<int64_t> read_tokens(const Json& list, const OpenAiLimits& limits) {
  std::vector<int64_t> tokens;
  tokens.reserve(list.size());
  for (const Json& each : list) {
    if (!is_token(each, limits)) refuse("prompt", each, concat("of token ids in [0, ", limits.vocabulary, ") where it has one"));
    tokens.push_back(each.get<int64_t>());
  }
  return tokens;
}

std::vector<OpenAiPrompt> read_prompts(const Json* value, const OpenAiLimits& limits) {
  static constexpr const char* kRule = "a string, a list of strings, a list of token ids, or a list of such lists";
  if (value == nullptr) return {std::string()};
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array() || value->empty()) refuse("prompt", *value, concat(kRule, ", and not empty"));
  if (value->front().is_number()) return {read_tokens(*value, limits)};
  std::vector<OpenAiPrompt> prompts;
  for (const Json& each : *value) {
    if (each.is_string() && value->front().is_string()) {
      prompts.emplace_back(each.get<std::string>());
    } else if (each.is_array() && value->front().is_array()) {
      prompts.emplace_back(read_tokens(each, limits));
    } else {
      refuse("prompt", each, concat("all of one kind: ", kRule));
    }
    if (prompts.size() > static_cast<size_t>(limits.choices)) break;
  }
  return prompts;
}

/// The text of a message: a string, or parts of which each is text.
std::string read_content(const Json& message, const std::string& place) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    if (message.at("role") == "assistant") return "";
    throw OpenAiError(concat("'", place, ".content' is missing"), place, "invalid_value");
  }
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) refuse(place + ".content", *content, "a string, or a list of parts {\"type\": \"text\", \"text\": ...}");
  std::string text;
  for (const Json& part : *content) {
    if (!part.is_object() || part.value("type", Json()) != "text" || !part.value("text", Json()).is_string()) {
      refuse(place + ".content", part, "of parts {\"type\": \"text\", \"text\": ...}: others are not supported here");
    }
    text += part.at("text").get_ref<const std::string&>();
  }
  return text;
}

Messages read_messages(const Json* value) {
  if (value == nullptr || !value->is_array() || value->empty()) {
    throw OpenAiError("'messages' must be a list of {\"role\", \"content\"}, and not empty", "messages", "invalid_value");
  }
  Messages messages = Messages::array();
  for (size_t index = 0; index < value->size(); ++index) {
    const Json& message = (*value)[index];
    const std::string place = concat("messages[", index, "]");
    if (!message.is_object() || !message.value("role", Json()).is_string()) refuse(place, message, "{\"role\", \"content\"}");
    std::string role = message.at("role");
    if (role == "developer") role = "system";  // a younger name for the same
    if (role != "system" && role != "user" && role != "assistant") {
      throw OpenAiError(concat("'", place, ".role' (", printable(role.substr(0, character_boundary(role, 32))),
                               ") must be system, developer, user or assistant"),
                        place, "invalid_value");
    }
    for (const auto& [name, member] : message.items()) {
      if (name == "role" || name == "content" || name == "name" || is_nothing(member)) continue;
      throw OpenAiError(concat("'", place, ".", printable(name.substr(0, character_boundary(name, 64))), "' is not supported here"), place,
                        "unsupported_parameter");
    }
    messages.push_back({{"role", role}, {"content", read_content(message, place)}});
  }
  return messages;
}

void require_few_choices(const OpenAiRequest& request, const OpenAiLimits& limits) {
  const int64_t prompts = request.is_chat ? 1 : static_cast<int64_t>(request.prompts.size());
  if (prompts * request.n <= limits.choices) return;
  throw OpenAiError(concat("'prompt' and 'n' ask for more than ", limits.choices, " choices: make several requests of them"), "prompt",
                    "invalid_value");
}

}  // namespace

OpenAiRequest read_completion_request(const std::string& body, const OpenAiLimits& limits) {
  const Json json = parse(body);
  Members members(json);
  OpenAiRequest request;
  request.prompts = read_prompts(members.find("prompt"), limits);
  request.max_tokens = members.whole("max_tokens", 0, kMostTokens).value_or(16);
  request.echo = members.flag("echo");
  request.top_logprobs = members.whole("logprobs", 0, limits.top_logprobs);
  read_common(members, limits, request);
  members.finish("a completion request");
  require_few_choices(request, limits);
  return request;
}

OpenAiRequest read_chat_request(const std::string& body, const OpenAiLimits& limits) {
  const Json json = parse(body);
  Members members(json);
  OpenAiRequest request;
  request.is_chat = true;
  request.messages = read_messages(members.find("messages"));
  request.max_tokens = members.whole("max_tokens", 1, kMostTokens);
  if (const auto most = members.whole("max_completion_tokens", 1, kMostTokens)) request.max_tokens = most;
  const bool logprobs = members.flag("logprobs");
  const auto top = members.whole("top_logprobs", 0, limits.top_logprobs);
  if (top && !logprobs) throw OpenAiError("'top_logprobs' needs 'logprobs': true", "top_logprobs", "invalid_value");
  if (logprobs) request.top_logprobs = top.value_or(0);
  read_common(members, limits, request);
  members.finish("a chat request");
  return request;
}

}  // namespace pimoe
