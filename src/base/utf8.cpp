#include "base/utf8.h"

#include <cstdint>
#include <cstring>

namespace pimoe {
namespace {

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

/// @returns the length of the well-formed character at the start of `text`, which is not empty; 0 if there is none.
size_t character_length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) return 1;
  size_t length = 0;
  // The second byte's range is what excludes overlong forms, surrogates and code points past U+10FFFF.
  unsigned char lowest = 0x80;
  unsigned char highest = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) lowest = 0xA0;
    if (lead == 0xED) highest = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) lowest = 0x90;
    if (lead == 0xF4) highest = 0x8F;
  }
  if (length == 0 || text.size() < length) return 0;
  const auto second = static_cast<unsigned char>(text[1]);
  if (second < lowest || second > highest) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (!is_continuation(text[i])) return 0;
  }
  return length;
}

}  // namespace

size_t valid_utf8_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    // Eight ASCII bytes at a time: most text is nothing else.
    uint64_t eight = 0;
    while (at + 8 <= text.size()) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080u) != 0) break;
      at += 8;
    }
    if (at == text.size()) break;
    const size_t length = character_length(text.substr(at));
    if (length == 0) break;
    at += length;
  }
  return at;
}

std::string printable(std::string_view text, bool keep_lines) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t length = character_length(text);
    const auto lead = static_cast<unsigned char>(text[0]);
    const bool stays_in_line = keep_lines && (lead == '\n' || lead == '\t');
    const bool is_c0 = lead < 0x20 || lead == 0x7F;
    const bool is_c1 = lead == 0xC2 && length == 2 && static_cast<unsigned char>(text[1]) < 0xA0;
    const size_t taken = length == 0 ? 1 : length;
    if (length == 0 || is_c1 || (is_c0 && !stays_in_line)) {
      for (const char byte : text.substr(0, taken)) {
        const auto code = static_cast<unsigned char>(byte);
        out += {'\\', 'x', kDigits[code >> 4], kDigits[code & 15]};
      }
    } else {
      out += text.substr(0, taken);
    }
    text.remove_prefix(taken);
  }
  return out;
}

size_t text_prefix(std::string_view bytes) { return valid_utf8_prefix(bytes.substr(0, bytes.find('\0'))); }

bool is_text(std::string_view bytes) { return text_prefix(bytes) == bytes.size(); }

size_t leading_continuations(std::string_view text) {
  size_t count = 0;
  while (count < text.size() && is_continuation(text[count])) ++count;
  return count;
}

size_t character_boundary(std::string_view text, size_t limit) {
  if (limit >= text.size()) return text.size();
  for (size_t back = 0; back < 4 && back < limit; ++back) {
    if (!is_continuation(text[limit - back])) return limit - back;
  }
  return limit;
}

}  // namespace pimoe
