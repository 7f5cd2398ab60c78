#pragma once

#include "data/chat_template.h"

#include <cstddef>
#include <string>

namespace pimoe {

/// One line of a .jsonl of conversations:
///
///     {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
///     {"prompt": "...", "answer": "..."}         a user's message and the assistant's; also "completion" or "response"
///     {"prompt": [messages], "completion": [messages]}    what the assistant says in the completion is learned
///
/// "tools" is given to the template; other members ("id", "source") are left alone.
struct Conversation {
  Messages messages = Messages::array();
  Messages tools = nullptr;
  size_t first = 0;  ///< messages before it are read only
};

/// @throws DataError saying what is wrong with the line: it is none of these, a role or content is missing or of another type, nobody
///         answers, or an answer is empty
Conversation read_conversation(const std::string& line);

/// The content of messages, as the user's one question that `generate --chat` asks.
Messages user_says(const std::string& prompt);

/// @throws DataError as read_conversation, but that nobody needs to answer
void require_messages(const Messages& messages, const std::string& place);

}  // namespace pimoe
