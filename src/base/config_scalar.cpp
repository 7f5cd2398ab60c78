#include "base/config_scalar.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "base/number_text.h"
#include "base/text.h"

namespace pimoe {
namespace {

bool is_digit(char letter) { return letter >= '0' && letter <= '9'; }

/// Takes the digits at the front of `text` away. @returns how many there were.
size_t take_digits(std::string_view& text) {
  const auto end = std::find_if_not(text.begin(), text.end(), is_digit);
  const auto count = static_cast<size_t>(end - text.begin());
  text.remove_prefix(count);
  return count;
}

bool take(std::string_view& text, std::string_view one_of) {
  if (text.empty() || one_of.find(text.front()) == std::string_view::npos) return false;
  text.remove_prefix(1);
  return true;
}

bool has_leading_zero(std::string_view text) {
  take(text, "-+");
  return text.size() > 1 && text[0] == '0' && (is_digit(text[1]) || text[1] == 'o' || text[1] == 'x' || text[1] == 'b');
}

bool is_integer(std::string_view text) {
  take(text, "-");
  return take_digits(text) > 0 && text.empty();
}

/// 5, -3, 0.001, .5, 5., 1e-3
bool is_number(std::string_view text) {
  take(text, "-");
  size_t digits = take_digits(text);
  if (take(text, ".")) digits += take_digits(text);
  if (digits == 0) return false;
  if (take(text, "eE")) {
    take(text, "+-");
    if (take_digits(text) == 0) return false;
  }
  return text.empty();
}

/// @returns what is wrong with the text of any number, or "".
std::string complaint_about_digits(const ConfigNode& node, const char* wanted) {
  if (node.quoted) return concat(yaml_text(node.scalar), " is text; ", wanted, " has no quotes");
  if (has_leading_zero(node.scalar)) return concat(node.scalar, " must be written in decimal, without a leading zero");
  const bool only_underscores_wrong = node.scalar.find('_') != std::string::npos && is_digit(node.scalar.back());
  if (only_underscores_wrong) return concat(node.scalar, " must be ", wanted, ", written without '_'");
  return "";
}

std::string complaint_about_range(double value, const std::string& text, const Range& range) {
  if (value >= range.at_least && value > range.above && value <= range.at_most && value < range.below) return "";
  std::vector<std::string> rules;
  if (std::isfinite(range.at_least)) rules.push_back("at least " + shortest(range.at_least));
  if (std::isfinite(range.above)) rules.push_back("above " + shortest(range.above));
  if (std::isfinite(range.at_most)) rules.push_back("at most " + shortest(range.at_most));
  if (std::isfinite(range.below)) rules.push_back("below " + shortest(range.below));
  return concat(text, " must be ", join(rules, " and "));
}

template <class Value>
bool converts(const std::string& text, Value& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string read_flag(const ConfigNode& node, bool& value) {
  if (node.quoted) return concat(yaml_text(node.scalar), " is text; true and false have no quotes");
  if (node.scalar != "true" && node.scalar != "false") return concat(node.scalar, " must be true or false");
  value = node.scalar == "true";
  return "";
}

std::string read_integer(const ConfigNode& node, const Range& range, int64_t& value) {
  const std::string complaint = complaint_about_digits(node, "an integer");
  if (!complaint.empty()) return complaint;
  if (!is_integer(node.scalar)) {
    const bool whole_in_disguise = is_number(node.scalar);
    return concat(node.scalar, " must be an integer", whole_in_disguise ? ", written in full: 1000, not 1e3 or 1000.0" : "");
  }
  int64_t parsed = 0;
  if (!converts(node.scalar, parsed)) return concat(node.scalar, " does not fit in 64 bits");
  const std::string out_of_range = complaint_about_range(static_cast<double>(parsed), node.scalar, range);
  if (out_of_range.empty()) value = parsed;
  return out_of_range;
}

std::string read_number(const ConfigNode& node, const Range& range, double& value) {
  const std::string complaint = complaint_about_digits(node, "a number");
  if (!complaint.empty()) return complaint;
  if (!is_number(node.scalar)) return concat(node.scalar, " must be a finite number, such as 5, 0.001 or 1e-3");
  double parsed = 0;
  if (!converts(node.scalar, parsed)) return concat(node.scalar, " is too large or too small for a float64");
  const std::string out_of_range = complaint_about_range(parsed, node.scalar, range);
  if (out_of_range.empty()) value = parsed;
  return out_of_range;
}

std::string read_word(const ConfigNode& node, const std::vector<std::string>& words, size_t& index) {
  const auto place = std::find(words.begin(), words.end(), node.scalar);
  if (place == words.end()) {
    const std::string nearest = nearest_name(node.scalar, words);
    return concat(node.scalar, " must be one of ", join(words, ", "), nearest.empty() ? "" : "; did you mean " + nearest + "?");
  }
  index = static_cast<size_t>(place - words.begin());
  return "";
}

std::string yaml_text(const std::string& text) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out = "\"";
  for (const char letter : text) {
    const auto code = static_cast<unsigned char>(letter);
    if (letter == '"' || letter == '\\') {
      out += '\\';
      out += letter;
    } else if (letter == '\n') {
      out += "\\n";
    } else if (code < 0x20 || code == 0x7F) {
      out += "\\x";
      out += kDigits[code >> 4];
      out += kDigits[code & 15];
    } else {
      out += letter;  // UTF-8 passes as it is
    }
  }
  return out + '"';
}

}  // namespace pimoe
