#include "data/chat_encoder.h"

#include <algorithm>
#include <string_view>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"

namespace pimoe {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";

/// Finds each token in the text that was encoded.
/// @returns where each begins, and the text's end behind the last; nothing where a normalizer wrote the text otherwise
std::optional<std::vector<size_t>> begins_of(const Tokenizer& tokenizer, std::string_view text, const std::vector<int32_t>& ids) {
  std::vector<size_t> begins;
  size_t at = 0;
  for (const int32_t id : ids) {
    const bool is_special = tokenizer.text(id).empty();
    std::string_view piece = is_special ? tokenizer.piece(id) : tokenizer.text(id);
    size_t found = at;
    if (text.substr(at, piece.size()) != piece) {
      // A space that the tokenizer puts in front of a word; white space that a special token takes with it.
      if (!is_special && piece.starts_with(' ') && text.substr(at, piece.size() - 1) == piece.substr(1)) {
        piece.remove_prefix(1);
      } else {
        found = std::min(text.find_first_not_of(kBlanks, at), text.size());
        if (!is_special || text.substr(found, piece.size()) != piece) return std::nullopt;
      }
    }
    begins.push_back(at);
    at = found + piece.size();
  }
  begins.push_back(text.size());
  if (text.find_first_not_of(kBlanks, at) != std::string_view::npos) return std::nullopt;
  return begins;
}

/// The same where a normalizer changed the text: the stretches between the answers' borders, each encoded alone, must give the same tokens.
std::optional<std::vector<uint8_t>> learned_by_parts(const Tokenizer& tokenizer, const ChatText& chat, const std::vector<int32_t>& ids) {
  std::vector<uint8_t> learned;
  std::vector<int32_t> all;
  size_t at = 0;
  const auto add = [&](size_t end, uint8_t flag) {
    if (end == at) return;
    const std::vector<int32_t> part = tokenizer.encode_with_special(std::string_view(chat.text).substr(at, end - at), at == 0);
    all.insert(all.end(), part.begin(), part.end());
    learned.insert(learned.end(), part.size(), flag);
    at = end;
  };
  for (const auto& [begin, end] : chat.answers) {
    add(begin, 0);
    add(end, 1);
  }
  add(chat.text.size(), 0);
  if (all != ids) return std::nullopt;
  return learned;
}

bool is_blank(std::string_view text) { return text.find_first_not_of(kBlanks) == std::string_view::npos; }

/// The content without white space around it: a template may trim it.
std::string_view trimmed(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(kBlanks), text.size());
  text.remove_prefix(begin);
  const size_t last = text.find_last_not_of(kBlanks);
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

/// What stands behind the end of turn does not have to be written by a model that stopped there.
void unmark_blanks_behind_end(const Tokenizer& tokenizer, EncodedChat& encoded) {
  size_t end = encoded.ids.size();
  while (end > 0) {
    if (encoded.learned[end - 1] == 0) {
      --end;
      continue;
    }
    size_t begin = end;
    while (begin > 0 && encoded.learned[begin - 1] != 0) --begin;
    size_t last = end;
    while (last > begin && !tokenizer.text(encoded.ids[last - 1]).empty() && is_blank(tokenizer.text(encoded.ids[last - 1]))) --last;
    const bool has_end = last > begin && tokenizer.text(encoded.ids[last - 1]).empty();
    if (has_end)
      std::fill(encoded.learned.begin() + static_cast<std::ptrdiff_t>(last), encoded.learned.begin() + static_cast<std::ptrdiff_t>(end), 0);
    end = begin;
  }
}

}  // namespace

EncodedChat ChatEncoder::encode(const Conversation& conversation) const {
  if (chat_ == nullptr) return encode_plain(conversation);
  const ChatText text = chat_->render_with_answers(conversation.messages, conversation.first, conversation.tools);
  require_known_roles(conversation, text.text);
  EncodedChat encoded{.ids = tokenizer_.encode_with_special(text.text), .learned = {}};
  mark(text, encoded);
  if (!chat_->has_generation_blocks()) unmark_blanks_behind_end(tokenizer_, encoded);
  if (std::find(encoded.learned.begin() + (encoded.learned.empty() ? 0 : 1), encoded.learned.end(), 1) == encoded.learned.end()) {
    throw DataError(
        concat("no token of it is the assistant's in the text of the chat template ", chat_->name(), ": there is nothing to learn"));
  }
  return encoded;
}

std::vector<int32_t> ChatEncoder::encode_question(const Messages& messages) const {
  return tokenizer_.encode_with_special(chat_->render(messages, true));
}

std::optional<int32_t> ChatEncoder::end_of_turn() const {
  Conversation example{.messages = user_says("a"), .first = 1};
  example.messages.push_back({{"role", "assistant"}, {"content", "b"}});
  const EncodedChat encoded = encode(example);
  const auto last = std::find(encoded.learned.rbegin(), encoded.learned.rend(), 1);
  const int32_t id = encoded.ids[static_cast<size_t>(encoded.learned.rend() - last) - 1];
  return tokenizer_.text(id).empty() ? std::optional(id) : std::nullopt;
}

EncodedChat ChatEncoder::encode_plain(const Conversation& conversation) const {
  const Messages& messages = conversation.messages;
  if (messages.size() != 2 || messages[0]["role"] != "user" || messages[1]["role"] != "assistant") {
    throw DataError("without a chat template a line must be {\"prompt\": ..., \"answer\": ...}, one question and its answer");
  }
  const auto prompt = messages[0]["content"].get<std::string>();
  const ChatText text{.text = prompt + messages[1]["content"].get<std::string>(), .answers = {}};
  EncodedChat encoded{.ids = tokenizer_.encode(text.text), .learned = {}};
  mark({text.text, {{prompt.size(), text.text.size()}}}, encoded);
  encoded.ids.push_back(tokenizer_.end_of_document());
  encoded.learned.push_back(1);
  return encoded;
}

void ChatEncoder::require_known_roles(const Conversation& conversation, const std::string& text) const {
  size_t at = 0;
  for (size_t i = 0; i < conversation.messages.size(); ++i) {
    const Messages& message = conversation.messages[i];
    const auto content = message.find("content");
    if (content == message.end() || !content->is_string()) continue;
    const auto whole = content->get<std::string>();
    const std::string_view words = trimmed(whole);
    if (words.empty()) continue;
    if (const size_t found = text.find(words, at); found != std::string::npos) {
      at = found + words.size();
      continue;
    }
    // It may stand there in other words, or at another place: does what it says change anything?
    Messages otherwise = conversation.messages;
    otherwise[i]["content"] = whole + "; said otherwise";
    if (chat_->render(otherwise, false, conversation.tools) != text) continue;
    throw DataError(concat("the chat template ", chat_->name(), " passes over message ", i + 1, ", of the role '",
                           printable(message["role"].get<std::string>()), "': it does not know the role"));
  }
}

void ChatEncoder::mark(const ChatText& text, EncodedChat& encoded) const {
  const auto begins = begins_of(tokenizer_, text.text, encoded.ids);
  if (!begins) {
    const auto learned = learned_by_parts(tokenizer_, text, encoded.ids);
    if (!learned) throw DataError("the tokenizer changes the text, and its tokens cannot be told apart at an answer's beginning and end");
    encoded.learned = *learned;
    return;
  }
  encoded.learned.assign(encoded.ids.size(), 0);
  size_t token = 0;
  for (const auto& [begin, end] : text.answers) {
    if (begin == end) continue;
    while (token < encoded.ids.size() && (*begins)[token + 1] <= begin) ++token;
    for (size_t i = token; i < encoded.ids.size() && (*begins)[i] < end; ++i) encoded.learned[i] = 1;
  }
}

}  // namespace pimoe
