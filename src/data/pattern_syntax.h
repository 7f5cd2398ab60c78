#pragma once

/// Regular expressions of tokenizer.json files, written for Oniguruma, in PCRE2's syntax.

#include <string>

namespace pimoe {

/// Unicode's White_Space as the inside of a class of PCRE2's. PCRE2's own \s has U+180E too.
inline constexpr const char* kWhiteSpaceClass =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
/// Characters of words as the inside of a class of PCRE2's. PCRE2's own \w has no marks.
inline constexpr const char* kWordClass = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";

/// Translates a regular expression from Oniguruma's Ruby syntax into PCRE2's (text_pattern.h says what becomes of what).
/// @throws DataError naming the construct that is refused; `place` begins the message
std::string pcre2_syntax(const std::string& pattern, const std::string& place);

}  // namespace pimoe
