#include "data/unicode_forms.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/errors.h"

namespace pimoe {
namespace {

using CodePoint = utf8proc_int32_t;

constexpr size_t kLongestDecomposition = 32;      // 18 of U+FDFA, and room
constexpr unsigned char kLeadOfFirstMark = 0xCC;  // of U+0300, with which combining marks begin

bool is_compatible(UnicodeForm form) { return form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd; }
bool is_composed(UnicodeForm form) { return form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc; }

/// Whether the code points alone tell that `text` is in the form already.
bool is_in_form(std::string_view text, UnicodeForm form) {
  const unsigned char first_that_is_not = form == UnicodeForm::kNfc ? kLeadOfFirstMark : 0x80;
  return std::all_of(text.begin(), text.end(), [&](char byte) { return static_cast<unsigned char>(byte) < first_that_is_not; });
}

void append_decomposed(std::string_view text, UnicodeForm form, std::vector<CodePoint>& out) {
  const int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (is_compatible(form) ? UTF8PROC_COMPAT : 0);
  std::array<CodePoint, kLongestDecomposition> parts{};
  int boundary = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (size_t at = 0; at < text.size();) {
    CodePoint character = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &character);
    if (length <= 0) throw Error("a text that is to be normalized is no UTF-8");
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(character, parts.data(), kLongestDecomposition, static_cast<utf8proc_option_t>(options), &boundary);
    if (count < 0 || static_cast<size_t>(count) > parts.size()) throw Error("utf8proc cannot decompose a character");
    out.insert(out.end(), parts.begin(), parts.begin() + count);
    at += static_cast<size_t>(length);
  }
}

int combining_class(CodePoint character) { return utf8proc_get_property(character)->combining_class; }

/// utf8proc's own ordering takes quadratic time for long runs of marks.
void put_marks_in_order(std::vector<CodePoint>& text) {
  const auto is_mark = [](CodePoint character) { return character >= 0x300 && combining_class(character) != 0; };
  for (auto begin = text.begin(); begin != text.end();) {
    begin = std::find_if(begin, text.end(), is_mark);
    const auto end = std::find_if_not(begin, text.end(), is_mark);
    std::stable_sort(begin, end, [](CodePoint a, CodePoint b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

}  // namespace

std::string normalized(std::string_view text, UnicodeForm form) {
  if (is_in_form(text, form)) return std::string(text);
  std::vector<CodePoint> characters;
  characters.reserve(text.size());
  append_decomposed(text, form, characters);
  put_marks_in_order(characters);
  if (is_composed(form)) {
    const auto count = static_cast<utf8proc_ssize_t>(characters.size());
    const utf8proc_ssize_t left =
        utf8proc_normalize_utf32(characters.data(), count, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    characters.resize(static_cast<size_t>(left));
  }
  std::string out;
  out.reserve(text.size());
  std::array<utf8proc_uint8_t, 4> bytes{};
  for (const CodePoint character : characters) {
    const utf8proc_ssize_t length = utf8proc_encode_char(character, bytes.data());
    out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(length));
  }
  return out;
}

}  // namespace pimoe
