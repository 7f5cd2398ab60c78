/// In place of text_pattern.cpp and unicode_forms.cpp where PCRE2 or utf8proc was not there when PiMoE was built: a tokenizer.json needs both.

#include "base/errors.h"
#include "base/text.h"
#include "data/text_pattern.h"
#include "data/unicode_forms.h"

namespace pimoe {
namespace {

[[noreturn]] void refuse(const std::string& place) {
  throw DataError(concat(place,
                         ": this pimoe reads no tokenizer.json, because it was built without PCRE2 and utf8proc: install libpcre2-dev and "
                         "libutf8proc-dev (Fedora: pcre2-devel, utf8proc-devel), and build it again; or take a SentencePiece model"));
}

}  // namespace

struct TextPattern::Compiled {};

TextPattern::TextPattern() = default;
TextPattern::~TextPattern() = default;
TextPattern::TextPattern(TextPattern&&) noexcept = default;
TextPattern TextPattern::literal(std::string text) { refuse(text); }
TextPattern TextPattern::expression(const std::string& /*pattern*/, const std::string& place) { refuse(place); }
void TextPattern::cut(std::string_view /*text*/, std::vector<TextSpan>& /*spans*/) const { refuse("a pattern"); }

std::string normalized(std::string_view /*text*/, UnicodeForm /*form*/) { refuse("a normalizer"); }

}  // namespace pimoe
