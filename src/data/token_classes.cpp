#include "data/token_classes.h"

#include <algorithm>
#include <array>

namespace pimoe {
namespace {

constexpr std::array<std::string_view, 35> kKeywords = {
    "False",  "None",     "True", "and",    "as",   "assert", "async",   "await",  "break", "class",  "continue", "def",
    "del",    "elif",     "else", "except", "for",  "from",   "finally", "global", "if",    "import", "in",       "is",
    "lambda", "nonlocal", "not",  "or",     "pass", "raise",  "return",  "try",    "while", "with",   "yield"};

bool is_digit(char byte) { return byte >= '0' && byte <= '9'; }
bool is_letter(char byte) { return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z'); }
bool is_hex_digit(char byte) { return is_digit(byte) || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F'); }
bool is_beyond_ascii(char byte) { return static_cast<unsigned char>(byte) >= 0x80; }
bool is_space(char byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }
char lower(char byte) { return byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte - 'A' + 'a') : byte; }

/// r, b, u, f, t and their pairs with r, in any case and order.
bool is_string_prefix(std::string_view word) {
  if (word.empty() || word.size() > 2) return false;
  const char first = lower(word[0]);
  const bool alone = first == 'r' || first == 'b' || first == 'u' || first == 'f' || first == 't';
  if (word.size() == 1) return alone;
  const char second = lower(word[1]);
  const auto joins_r = [](char letter) { return letter == 'b' || letter == 'f' || letter == 't'; };
  return (first == 'r' && joins_r(second)) || (second == 'r' && joins_r(first));
}

/// A text that is read from the front. Past the end there are NULs.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  bool done() const { return at_ >= text_.size(); }
  size_t at() const { return at_; }
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  std::string_view since(size_t begin) const { return text_.substr(begin, at_ - begin); }
  void advance(size_t count = 1) { at_ = std::min(text_.size(), at_ + count); }
  template <class Predicate>
  void skip_while(Predicate holds) {
    while (!done() && holds(peek())) advance();
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

/// From the first quote past the last; a backslash hides what follows it, in raw strings too (there it only stays in the value).
void skip_string(Cursor& cursor) {
  const char quote = cursor.peek();
  const bool is_triple = cursor.peek(1) == quote && cursor.peek(2) == quote;
  cursor.advance(is_triple ? 3 : 1);
  while (!cursor.done()) {
    if (cursor.peek() == '\\') {
      cursor.advance(2);
    } else if (!is_triple && cursor.peek() == '\n') {
      return;
    } else if (cursor.peek() == quote && (!is_triple || (cursor.peek(1) == quote && cursor.peek(2) == quote))) {
      return cursor.advance(is_triple ? 3 : 1);
    } else {
      cursor.advance();
    }
  }
}

void skip_digits(Cursor& cursor) {
  cursor.skip_while([](char byte) { return is_digit(byte) || byte == '_'; });
}

/// An integer in any base, a float with its exponent, an imaginary number.
void skip_number(Cursor& cursor) {
  const char base = lower(cursor.peek(1));
  if (cursor.peek() == '0' && (base == 'x' || base == 'o' || base == 'b')) {
    cursor.advance(2);
    return cursor.skip_while([](char byte) { return is_hex_digit(byte) || byte == '_'; });
  }
  skip_digits(cursor);
  if (cursor.peek() == '.') {
    cursor.advance();
    skip_digits(cursor);
  }
  if (lower(cursor.peek()) == 'e') {
    const size_t sign = cursor.peek(1) == '+' || cursor.peek(1) == '-' ? 1 : 0;
    if (is_digit(cursor.peek(1 + sign))) {
      cursor.advance(1 + sign);
      skip_digits(cursor);
    }
  }
  if (lower(cursor.peek()) == 'j') cursor.advance();
}

/// Reads one lexical token. @returns its class
PythonClass skip_python_token(Cursor& cursor) {
  const char first = cursor.peek();
  const size_t begin = cursor.at();
  if (is_space(first)) {
    cursor.skip_while(is_space);
    return kWhitespace;
  }
  if (first == '#') {
    cursor.skip_while([](char byte) { return byte != '\n'; });
    return kComment;
  }
  if (first == '"' || first == '\'') {
    skip_string(cursor);
    return kString;
  }
  if (is_digit(first) || (first == '.' && is_digit(cursor.peek(1)))) {
    skip_number(cursor);
    return kNumber;
  }
  if (is_letter(first) || first == '_' || is_beyond_ascii(first)) {
    cursor.skip_while([](char byte) { return is_letter(byte) || is_digit(byte) || byte == '_' || is_beyond_ascii(byte); });
    const std::string_view word = cursor.since(begin);
    if ((cursor.peek() == '"' || cursor.peek() == '\'') && is_string_prefix(word)) {
      skip_string(cursor);
      return kString;
    }
    return std::find(kKeywords.begin(), kKeywords.end(), word) == kKeywords.end() ? kIdentifier : kKeyword;
  }
  cursor.advance();
  return kOperator;
}

/// Reads one character beyond ASCII. Latin-1's signs are U+00A1 to U+00BF, general punctuation U+2000 to U+206F, CJK punctuation U+3000 to
/// U+303F; each block begins with its spaces.
ProseClass skip_character_beyond_ascii(Cursor& cursor) {
  const auto byte = [&](size_t ahead) { return static_cast<unsigned char>(cursor.peek(ahead)); };
  const unsigned first = byte(0);
  const unsigned second = byte(1);
  const unsigned third = byte(2);
  const size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
  ProseClass found = kWord;
  if (first == 0xC2 && second >= 0xA0 && second <= 0xBF) {
    found = second == 0xA0 ? kSpace : second == 0xAA || second == 0xB5 || second == 0xBA ? kWord : kPunctuation;
  } else if (first == 0xE2 && (second == 0x80 || (second == 0x81 && third < 0xB0))) {
    found = second == 0x80 && (third <= 0x8A || third == 0xA8 || third == 0xA9 || third == 0xAF) ? kSpace : kPunctuation;
  } else if (first == 0xE3 && second == 0x80) {
    found = third == 0x80 ? kSpace : kPunctuation;
  }
  // Bytes that continue no character are left to be read for themselves.
  cursor.advance();
  for (size_t left = bytes - 1; left > 0 && (static_cast<unsigned char>(cursor.peek()) & 0xC0) == 0x80; --left) cursor.advance();
  return found;
}

/// Reads one character. @returns its class
ProseClass skip_prose_character(Cursor& cursor, bool after_letter) {
  const char first = cursor.peek();
  if (is_beyond_ascii(first)) return skip_character_beyond_ascii(cursor);
  const bool joins = first == '\'' && after_letter && (is_letter(cursor.peek(1)) || is_beyond_ascii(cursor.peek(1)));
  cursor.advance();
  if (is_space(first)) return kSpace;
  if (is_digit(first)) return kDigit;
  return is_letter(first) || joins ? kWord : kPunctuation;
}

TokenClass whitespace_of(TextKind kind) { return kind == TextKind::kPython ? TokenClass{kWhitespace} : TokenClass{kSpace}; }

/// @returns the class of most of a token's bytes; see the header for ties
TokenClass majority(const TokenClass* begin, size_t count, TokenClass whitespace) {
  std::array<size_t, 8> votes{};
  for (size_t index = 0; index < count; ++index) ++votes[static_cast<size_t>(begin[index])];
  TokenClass best = kNoClass;
  size_t best_votes = 0;
  for (size_t index = 0; index < count; ++index) {
    const TokenClass candidate = begin[index];
    const size_t has = votes[static_cast<size_t>(candidate)];
    if (has > best_votes || (has == best_votes && best == whitespace)) {
      best = candidate;
      best_votes = has;
    }
  }
  return best;
}

}  // namespace

const std::vector<std::string>& class_names(TextKind kind) {
  static const std::vector<std::string> python = {"identifier", "keyword", "number", "operator", "whitespace", "string", "comment"};
  static const std::vector<std::string> prose = {"word", "digit", "punctuation", "whitespace"};
  return kind == TextKind::kPython ? python : prose;
}

std::vector<TokenClass> classify_bytes(std::string_view text, TextKind kind) {
  std::vector<TokenClass> classes;
  classes.reserve(text.size());
  Cursor cursor(text);
  while (!cursor.done()) {
    const bool after_letter = !classes.empty() && classes.back() == kWord;
    const TokenClass found =
        kind == TextKind::kPython ? TokenClass{skip_python_token(cursor)} : TokenClass{skip_prose_character(cursor, after_letter)};
    classes.resize(cursor.at(), found);
  }
  return classes;
}

std::vector<TokenClass> classify_tokens(const std::vector<int32_t>& ids, const Tokenizer& tokenizer, TextKind kind) {
  std::vector<TokenClass> classes;
  classes.reserve(ids.size());
  for (auto begin = ids.begin(); begin != ids.end();) {
    auto end = std::find(begin, ids.end(), tokenizer.end_of_document());
    if (end != ids.end()) ++end;
    std::string text;
    for (auto id = begin; id != end; ++id) text += tokenizer.text(*id);
    const std::vector<TokenClass> bytes = classify_bytes(text, kind);
    const TokenClass* next = bytes.data();
    for (auto id = begin; id != end; ++id) {
      const size_t count = tokenizer.text(*id).size();
      classes.push_back(majority(next, count, whitespace_of(kind)));
      next += count;
    }
    begin = end;
  }
  return classes;
}

}  // namespace pimoe
