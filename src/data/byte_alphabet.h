#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace pimoe {

/// Byte-level BPE writes each byte as a character that can be printed: 0x21 to 0x7E, 0xA1 to 0xAC and 0xAE to 0xFF as the code point of the same
/// number, the other 68 bytes in their order as U+0100 to U+0143 (a space is U+0120).
/// @returns the character, in UTF-8
std::string character_of_byte(unsigned char byte);

/// @returns the bytes that a piece of such characters means; nothing where it has another character
std::optional<std::string> bytes_of_piece(std::string_view piece);

}  // namespace pimoe
