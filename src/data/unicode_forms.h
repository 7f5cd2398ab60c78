#pragma once

#include <string>
#include <string_view>

namespace pimoe {

/// Unicode's normalization forms.
enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

/// @param text  well-formed UTF-8
/// @cost  n log n for runs of combining marks of any length; text that is in form C by its code points alone (below U+0300) is copied
/// @source The Unicode Standard Annex 15; tables of utf8proc
std::string normalized(std::string_view text, UnicodeForm form);

}  // namespace pimoe
