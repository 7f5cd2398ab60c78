#include "data/added_tokens.h"

#include <algorithm>

#include "base/utf8.h"

namespace pimoe {
namespace {

/// Unicode's White_Space. @returns its bytes at the start of `text`, 0 where there is none
size_t white_space_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0; };
  if ((byte(0) >= 0x09 && byte(0) <= 0x0D) || byte(0) == 0x20) return 1;
  if (byte(0) == 0xC2 && (byte(1) == 0x85 || byte(1) == 0xA0)) return 2;
  const bool is_one = (byte(0) == 0xE1 && byte(1) == 0x9A && byte(2) == 0x80)  // U+1680
                      || (byte(0) == 0xE2 && byte(1) == 0x80 &&
                          ((byte(2) >= 0x80 && byte(2) <= 0x8A)                        // U+2000 to U+200A
                           || byte(2) == 0xA8 || byte(2) == 0xA9 || byte(2) == 0xAF))  // U+2028, 2029, 202F
                      || (byte(0) == 0xE2 && byte(1) == 0x81 && byte(2) == 0x9F)       // U+205F
                      || (byte(0) == 0xE3 && byte(1) == 0x80 && byte(2) == 0x80);      // U+3000
  return is_one ? 3 : 0;
}

std::string_view last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return text.substr(at);
}

std::string_view first_character(std::string_view text) { return text.substr(0, 1 + leading_continuations(text.substr(1))); }

}  // namespace

AddedTokens::AddedTokens() : token_of_node_(1, -1), word_(TextPattern::expression("[\\w\\x{200c}\\x{200d}]", "added_tokens")) {}

void AddedTokens::add(const AddedToken& token) {
  uint64_t node = 0;
  for (const char byte : token.content) {
    const uint64_t key = node << 8 | static_cast<unsigned char>(byte);
    if (const uint64_t* child = children_.find(key)) {
      node = *child;
    } else {
      node = token_of_node_.size();
      token_of_node_.push_back(-1);
      children_.put(key, node);
    }
  }
  if (token_of_node_[node] < 0) token_of_node_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  begins_[static_cast<unsigned char>(token.content[0])] = true;
}

AddedTokens::Found AddedTokens::next(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!begins_[static_cast<unsigned char>(text[begin])]) continue;
    Found found;
    uint64_t node = 0;
    for (size_t at = begin; at < text.size(); ++at) {
      const uint64_t* child = children_.find(node << 8 | static_cast<unsigned char>(text[at]));
      if (child == nullptr) break;
      node = *child;
      if (token_of_node_[node] >= 0) found = {begin, at + 1, &tokens_[static_cast<size_t>(token_of_node_[node])]};
    }
    if (found.token != nullptr) return found;
  }
  return {};
}

bool AddedTokens::is_word(std::string_view character) const {
  std::vector<TextSpan> spans;
  word_.cut(character, spans);
  return !spans.empty() && spans[0].is_match;
}

bool AddedTokens::is_beside_word(std::string_view text, const Found& found) const {
  return (found.begin > 0 && is_word(last_character(text.substr(0, found.begin)))) ||
         (found.end < text.size() && is_word(first_character(text.substr(found.end))));
}

void AddedTokens::cut(std::string_view text, std::vector<Piece>& pieces) const {
  pieces.clear();
  size_t done = 0;
  size_t from = 0;
  while (!tokens_.empty()) {
    Found found = next(text, from);
    if (found.token == nullptr) break;
    from = found.end;
    if (found.token->single_word && is_beside_word(text, found)) continue;
    if (found.token->takes_left) {
      while (found.begin > done && white_space_length(last_character(text.substr(0, found.begin))) > 0) {
        found.begin -= last_character(text.substr(0, found.begin)).size();
      }
    }
    if (found.token->takes_right) {
      while (const size_t length = white_space_length(text.substr(found.end))) found.end += length;
    }
    if (done < found.begin) pieces.push_back({text.substr(done, found.begin - done), -1});
    pieces.push_back({{}, found.token->id});
    done = found.end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), -1});
}

}  // namespace pimoe
