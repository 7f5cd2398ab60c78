#include "data/conversation.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <vector>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"

namespace pimoe {
namespace {

constexpr std::array kAnswers = {"answer", "completion", "response"};
constexpr const char* kShapes = R"({"messages": [...]} or {"prompt": ..., "answer": ...})";

Messages message(const char* role, const Messages& content) { return {{"role", role}, {"content", content}}; }

bool is_blank(const std::string& text) { return text.find_first_not_of(" \t\r\n") == std::string::npos; }

/// A message that calls tools may say nothing beside it.
bool calls_tools(const Messages& each) {
  const auto calls = each.find("tool_calls");
  return calls != each.end() && calls->is_array() && !calls->empty();
}

void require_message(const Messages& each, const std::string& place) {
  if (!each.is_object()) throw DataError(concat(place, " is a JSON ", each.type_name(), ", not an object with role and content"));
  const auto role = each.find("role");
  if (role == each.end() || !role->is_string() || role->get<std::string>().empty()) {
    throw DataError(
        concat(place, " has no role: a message is {\"role\": \"user\", \"content\": \"...\"}",
               each.contains("from") && each.contains("value") ? "; \"from\" and \"value\" must be renamed to role and content" : ""));
  }
  const auto content = each.find("content");
  const bool says_nothing = content == each.end() || content->is_null();
  if (says_nothing && calls_tools(each)) return;
  if (says_nothing || !content->is_string()) {
    throw DataError(concat(place, " (", printable(role->get<std::string>()), ") ",
                           says_nothing ? "has no content" : concat("has a content that is a JSON ", content->type_name()),
                           ": it must be a string"));
  }
}

/// @returns the member that holds the answer. @throws DataError where there is none, or more than one
std::string answer_key(const Messages& line) {
  std::vector<std::string> found;
  std::copy_if(kAnswers.begin(), kAnswers.end(), std::back_inserter(found), [&](const char* key) { return line.contains(key); });
  if (found.size() == 1) return found.front();
  throw DataError(concat("the line has a prompt, and ", found.empty() ? "no answer" : join(found, " and "), ": it must have one of ",
                         join({kAnswers.begin(), kAnswers.end()}, ", ")));
}

Conversation of_prompt(const Messages& line) {
  const Messages& prompt = line["prompt"];
  const std::string key = answer_key(line);
  const Messages& answer = line[key];
  if (prompt.type() != answer.type() || !(prompt.is_string() || prompt.is_array())) {
    throw DataError(concat("prompt is a JSON ", prompt.type_name(), " and ", key, " a JSON ", answer.type_name(),
                           ": both must be strings, or both lists of messages"));
  }
  Conversation conversation;
  if (prompt.is_string()) {
    conversation.messages = {message("user", prompt), message("assistant", answer)};
    conversation.first = 1;
    return conversation;
  }
  conversation.messages = prompt;
  conversation.first = prompt.size();
  conversation.messages.insert(conversation.messages.end(), answer.begin(), answer.end());
  return conversation;
}

void require_answers(const Conversation& conversation) {
  size_t answers = 0;
  for (size_t i = conversation.first; i < conversation.messages.size(); ++i) {
    const Messages& each = conversation.messages[i];
    if (each["role"] != "assistant") continue;
    ++answers;
    if (!calls_tools(each) && is_blank(each["content"].get<std::string>()))
      throw DataError(concat("message ", i + 1, ", an answer, is empty"));
  }
  if (answers == 0) throw DataError("no message is the assistant's: there is nothing to learn");
}

}  // namespace

void require_messages(const Messages& messages, const std::string& place) {
  if (!messages.is_array() || messages.empty()) throw DataError(concat(place, " must be a list of messages, and not empty"));
  for (size_t i = 0; i < messages.size(); ++i) require_message(messages[i], concat(place, "[", i, "]"));
}

Conversation read_conversation(const std::string& line) {
  const auto json = Messages::parse(line, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) throw DataError("the line is no JSON");
  if (!json.is_object()) throw DataError(concat("the line is a JSON ", json.type_name(), ", not ", kShapes));
  Conversation conversation;
  if (json.contains("messages") && !json.contains("prompt")) {
    conversation.messages = json["messages"];
  } else if (json.contains("prompt") && !json.contains("messages")) {
    conversation = of_prompt(json);
  } else {
    std::vector<std::string> keys;
    for (const auto& item : json.items()) keys.push_back(printable(item.key()));
    throw DataError(concat("the line has ", keys.empty() ? "no members" : join(keys, ", "), ", and must be ", kShapes));
  }
  require_messages(conversation.messages, "messages");
  require_answers(conversation);
  if (const auto tools = json.find("tools"); tools != json.end()) conversation.tools = *tools;
  return conversation;
}

Messages user_says(const std::string& prompt) { return Messages::array({message("user", prompt)}); }

}  // namespace pimoe
