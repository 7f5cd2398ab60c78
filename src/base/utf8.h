#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pimoe {

/// @returns how many bytes from the start are well-formed UTF-8: no overlong forms, no surrogates, at most U+10FFFF.
/// @source The Unicode Standard 15.0, table 3-7.
size_t valid_utf8_prefix(std::string_view text);

/// @returns whether a file may be read as text: well-formed UTF-8 without a NUL.
bool is_text(std::string_view bytes);

/// @returns how many bytes from the start are text as `is_text` means it.
size_t text_prefix(std::string_view bytes);

/// @returns `text` with every byte that could drive a terminal, or is no UTF-8, written out: ESC as \\x1b, a NUL as \\x00, U+009B as \\xc2\\x9b. For
///          messages, which quote what others wrote. @param keep_lines  line ends and tabs stay
std::string printable(std::string_view text, bool keep_lines = false);

/// @returns how many bytes at the start are the tail of a character that was cut.
size_t leading_continuations(std::string_view text);

/// @returns the largest position <= limit at which `text` may be cut without cutting a character; `limit` itself where the bytes are no
///          UTF-8.
size_t character_boundary(std::string_view text, size_t limit);

}  // namespace pimoe
