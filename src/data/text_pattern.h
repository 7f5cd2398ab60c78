#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pimoe {

/// A stretch of a text that a pattern matches, or one between two matches.
struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
  bool is_match = false;
};

/// What a tokenizer.json finds in a text: a string as it stands, or a regular expression. Thread-safe.
///
/// Those files are written for Oniguruma in its Ruby syntax. The expression is translated for PCRE2: \s is Unicode's White_Space, \w its words, \d
/// \p{Nd}, a property of more than two letters a script, ^ and $ stand at every line. Constructs of which the two engines think differently, or which no
/// known tokenizer has, are refused: \b \h \R \X, back references, named groups, sets of classes ([a[bc]], &&), {,n}, {n,m}+.
/// PCRE2 10.40 to 10.42 knows Unicode 14.
class TextPattern {
 public:
  /// REQUIRES that `text` is not empty.
  static TextPattern literal(std::string text);
  /// @param place  for messages
  /// @throws DataError naming what is refused, or where PCRE2 stops
  static TextPattern expression(const std::string& pattern, const std::string& place);
  ~TextPattern();
  TextPattern(TextPattern&&) noexcept;

  /// Cuts `text`, which is well-formed UTF-8, into matches and what lies between them: the spans follow each other and cover it. An empty match gives
  /// an empty span.
  /// @throws DataError where the expression needs more than 100 million steps for one match
  /// @cost   linear for the expressions of known tokenizers, some 50 ns a match
  void cut(std::string_view text, std::vector<TextSpan>& spans) const;

 private:
  struct Compiled;
  TextPattern();

  std::string literal_;
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace pimoe
