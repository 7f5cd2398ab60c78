#include "data/text_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/pattern_syntax.h"

namespace pimoe {
namespace {

constexpr uint32_t kMostSteps = 100'000'000;
constexpr size_t kMostPatternBytes = 16 << 10;
constexpr size_t kFirstJitStackBytes = 64 << 10;
constexpr size_t kMostJitStackBytes = 256 << 20;

template <auto release>
struct Release {
  template <class Pointer>
  void operator()(Pointer* pointer) const {
    release(pointer);
  }
};
using Code = std::unique_ptr<pcre2_code, Release<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Release<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Release<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Release<pcre2_jit_stack_free>>;

std::string message_of(int code) {
  std::string text(256, '\0');
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text.data()), text.size());
  return text.substr(0, text.find('\0'));
}

MatchContext new_match_context() {
  MatchContext context(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(context.get(), kMostSteps);
  return context;
}

}  // namespace

struct TextPattern::Compiled {
  Compiled(const std::string& pattern, const std::string& place) : where(place), context(new_match_context()) {
    if (pattern.size() > kMostPatternBytes) {
      throw DataError(concat(place, ": the regular expression has ", pattern.size(), " bytes, and may have at most ", kMostPatternBytes));
    }
    const std::string translated = pcre2_syntax(pattern, place);
    const CompileContext options(pcre2_compile_context_create(nullptr));
    pcre2_set_newline(options.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE at = 0;
    code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                             &error, &at, options.get()));
    if (!code) {
      throw DataError(concat(place, ": the regular expression ", printable(pattern), " is refused: ", message_of(error), " (at byte ", at,
                             " of ", printable(translated), ")"));
    }
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without it the same, slower
  }

  /// Finds the next match at or after `from`. @returns whether there is one, which `data` has
  bool find(std::string_view text, size_t from, pcre2_match_data* data) const {
    const auto match = [&](pcre2_match_context* how) {
      return pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, PCRE2_NO_UTF_CHECK, data, how);
    };
    int found = match(context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {  // the machine's own stack was too short, which is rare
      const JitStack stack(pcre2_jit_stack_create(kFirstJitStackBytes, kMostJitStackBytes, nullptr));
      const MatchContext roomier = new_match_context();
      pcre2_jit_stack_assign(roomier.get(), nullptr, stack.get());
      found = match(roomier.get());
    }
    if (found >= 0) return true;
    if (found == PCRE2_ERROR_NOMATCH) return false;
    throw DataError(concat(where, ": the regular expression fails on a text of ", text.size(), " bytes: ", message_of(found)));
  }

  std::string where;
  Code code;
  MatchContext context;
};

TextPattern::TextPattern() = default;
TextPattern::~TextPattern() = default;
TextPattern::TextPattern(TextPattern&&) noexcept = default;

TextPattern TextPattern::literal(std::string text) {
  TextPattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

TextPattern TextPattern::expression(const std::string& text, const std::string& place) {
  TextPattern pattern;
  pattern.compiled_ = std::make_unique<const Compiled>(text, place);
  return pattern;
}

void TextPattern::cut(std::string_view text, std::vector<TextSpan>& spans) const {
  spans.clear();
  size_t done = 0;
  const auto add = [&](size_t begin, size_t end) {
    if (done < begin) spans.push_back({done, begin, false});
    spans.push_back({begin, end, true});
    done = end;
  };
  if (!compiled_) {
    for (size_t at = text.find(literal_); at != std::string_view::npos; at = text.find(literal_, done)) add(at, at + literal_.size());
  } else {
    const MatchData data(pcre2_match_data_create(1, nullptr));
    const PCRE2_SIZE* const place = pcre2_get_ovector_pointer(data.get());
    bool has_matched = false;
    for (size_t from = 0; from <= text.size() && compiled_->find(text, from, data.get());) {
      const size_t begin = place[0];
      const size_t end = place[1];
      if (begin == end && has_matched && end == done) {  // an empty match right behind a match is none
        from += 1 + leading_continuations(text.substr(std::min(from + 1, text.size())));
        continue;
      }
      add(begin, end);
      has_matched = true;
      from = end;
    }
  }
  if (done < text.size()) spans.push_back({done, text.size(), false});
}

}  // namespace pimoe
