#include "data/pattern_syntax.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"

namespace pimoe {
namespace {

constexpr std::array<std::string_view, 8> kGroups = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"};

bool is_ascii(char byte) { return static_cast<unsigned char>(byte) < 0x80; }
bool is_letter_or_digit(char byte) { return is_ascii(byte) && std::isalnum(static_cast<unsigned char>(byte)) != 0; }
bool is_hex(char byte) { return is_ascii(byte) && std::isxdigit(static_cast<unsigned char>(byte)) != 0; }
bool is_digit(char byte) { return byte >= '0' && byte <= '9'; }

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& place) : rest_(pattern), place_(place) {}

  std::string translate() {
    if (rest_.starts_with("(?i)")) take(4);  // further on, it would reach over a | in one engine and not in the other
    while (!rest_.empty()) {
      in_class_ ? read_in_class() : read_outside();
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw DataError(concat(place_, ": the regular expression has ", printable(what), ", which is not supported"));
  }

  void take(size_t count) {
    out_ += rest_.substr(0, count);
    rest_.remove_prefix(count);
  }

  void replace(size_t count, std::string_view by) {
    out_ += by;
    rest_.remove_prefix(count);
  }

  void read_outside() {
    switch (rest_[0]) {
      case '\\': return read_escape();
      case '[': return open_class();
      case '(': return open_group();
      case '{': return read_interval();
      default: take(1);
    }
  }

  void open_group() {
    if (rest_.size() > 1 && (rest_[1] == '?' || rest_[1] == '*')) {
      const auto known = std::find_if(kGroups.begin(), kGroups.end(), [&](std::string_view group) { return rest_.starts_with(group); });
      if (known == kGroups.end()) refuse(rest_.substr(0, 4));
      return take(known->size());
    }
    take(1);
  }

  /// {2}, {2,} and {2,3}; any other brace stands for itself.
  void read_interval() {
    size_t at = 1;
    const auto digits = [&] {
      const size_t begin = at;
      while (at < rest_.size() && is_digit(rest_[at])) ++at;
      return at > begin;
    };
    const bool has_least = digits();
    if (at < rest_.size() && rest_[at] == ',') {
      ++at;
      if (digits() && !has_least) refuse("{,n}");
    }
    if (!has_least || at >= rest_.size() || rest_[at] != '}') return replace(1, "\\{");
    ++at;
    if (at < rest_.size() && rest_[at] == '+') refuse("{n,m}+");
    take(at);
  }

  void open_class() {
    in_class_ = true;
    take(1);
    if (rest_.starts_with('^')) take(1);
    if (rest_.starts_with(']')) refuse("[]");
  }

  void read_in_class() {
    if (rest_[0] == '\\') return read_escape();
    if (rest_[0] == '[') refuse("[ inside of [ ]");
    if (rest_.starts_with("&&")) refuse("&& inside of [ ]");
    if (rest_[0] == ']') in_class_ = false;
    take(1);
  }

  void read_escape() {
    if (rest_.size() < 2) refuse("\\ at its end");
    const char letter = rest_[1];
    if (!is_letter_or_digit(letter)) {
      if (is_ascii(letter)) return take(2);
      return replace(1, "");  // the character itself
    }
    switch (letter) {
      case 'r':
      case 'n':
      case 't':
      case 'f': return take(2);
      case 's': return replace(2, in_class_ ? kWhiteSpaceClass : concat("[", kWhiteSpaceClass, "]"));
      case 'd': return replace(2, "\\p{Nd}");
      case 'D': return replace(2, "\\P{Nd}");
      case 'w': return replace(2, in_class_ ? kWordClass : concat("[", kWordClass, "]"));
      case 'S':
        if (in_class_) refuse("\\S inside of [ ]");
        return replace(2, concat("[^", kWhiteSpaceClass, "]"));
      case 'W':
        if (in_class_) refuse("\\W inside of [ ]");
        return replace(2, concat("[^", kWordClass, "]"));
      case 'A':
      case 'z':
        if (in_class_) refuse(rest_.substr(0, 2));
        return take(2);
      case 'p':
      case 'P': return read_property();
      case 'x': return read_hexadecimal();
      case 'u': return read_code_unit();
      default: refuse(rest_.substr(0, 2));
    }
  }

  void read_property() {
    const size_t end = rest_.find('}');
    if (rest_.size() < 3 || rest_[2] != '{' || end == std::string_view::npos) refuse(rest_.substr(0, 3));
    std::string_view name = rest_.substr(3, end - 3);
    const bool is_negated = name.starts_with('^');
    if (is_negated) name.remove_prefix(1);
    if (name.empty() || !std::all_of(name.begin(), name.end(), [](char byte) { return is_letter_or_digit(byte) || byte == '_'; })) {
      refuse(rest_.substr(0, end + 1));
    }
    // A script's name alone means its extensions too for PCRE2.
    replace(end + 1, concat("\\", rest_[1], "{", is_negated ? "^" : "", name.size() > 2 ? "sc:" : "", name, "}"));
  }

  void read_hexadecimal() {
    if (rest_.size() > 2 && rest_[2] == '{') {
      const size_t end = rest_.find('}');
      if (end == std::string_view::npos || end == 3 ||
          !std::all_of(rest_.begin() + 3, rest_.begin() + static_cast<std::ptrdiff_t>(end), is_hex)) {
        refuse(rest_.substr(0, 3));
      }
      return take(end + 1);
    }
    // From \x80 on it would be a byte and no character.
    if (rest_.size() < 4 || !is_hex(rest_[2]) || !is_hex(rest_[3]) || rest_[2] >= '8') refuse(rest_.substr(0, 4));
    take(4);
  }

  void read_code_unit() {
    if (rest_.size() < 6 || !std::all_of(rest_.begin() + 2, rest_.begin() + 6, is_hex)) refuse(rest_.substr(0, 6));
    replace(6, concat("\\x{", rest_.substr(2, 4), "}"));
  }

  std::string_view rest_;
  const std::string& place_;
  std::string out_;
  bool in_class_ = false;
};

}  // namespace

std::string pcre2_syntax(const std::string& pattern, const std::string& place) { return Translator(pattern, place).translate(); }

}  // namespace pimoe
