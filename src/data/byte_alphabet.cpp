#include "data/byte_alphabet.h"

#include <array>

namespace pimoe {
namespace {

constexpr int kFirstSubstitute = 0x100;
constexpr int kSubstitutes = 68;

bool stands_for_itself(int byte) { return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE; }

/// @returns the bytes that U+0100 and its followers stand for
const std::array<unsigned char, kSubstitutes>& substituted_bytes() {
  static const auto bytes = [] {
    std::array<unsigned char, kSubstitutes> found{};
    size_t count = 0;
    for (int byte = 0; byte < 256; ++byte) {
      if (!stands_for_itself(byte)) found[count++] = static_cast<unsigned char>(byte);
    }
    return found;
  }();
  return bytes;
}

std::string utf8_of(int code_point) {  // below U+0800
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xC0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 0x3F))};
}

}  // namespace

std::string character_of_byte(unsigned char byte) {
  if (stands_for_itself(byte)) return utf8_of(byte);
  int substitute = kFirstSubstitute;
  for (const unsigned char other : substituted_bytes()) {
    if (other == byte) break;
    ++substitute;
  }
  return utf8_of(substitute);
}

std::optional<std::string> bytes_of_piece(std::string_view piece) {
  std::string bytes;
  while (!piece.empty()) {
    const auto lead = static_cast<unsigned char>(piece[0]);
    int code_point = lead;
    size_t length = 1;
    if (lead >= 0x80) {
      if ((lead & 0xE0) != 0xC0 || piece.size() < 2) return std::nullopt;
      code_point = ((lead & 0x1F) << 6) | (static_cast<unsigned char>(piece[1]) & 0x3F);
      length = 2;
    }
    if (code_point < 0x100) {
      if (!stands_for_itself(code_point)) return std::nullopt;
      bytes += static_cast<char>(code_point);
    } else {
      if (code_point >= kFirstSubstitute + kSubstitutes) return std::nullopt;
      bytes += static_cast<char>(substituted_bytes()[static_cast<size_t>(code_point - kFirstSubstitute)]);
    }
    piece.remove_prefix(length);
  }
  return bytes;
}

}  // namespace pimoe
