#include "app/number_checks.h"

#include "base/text.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>

namespace pimoe {
namespace {

template <class Number>
CLI::Validator check(Number least, Number most, const char* wanted) {
  const std::string range = concat("in [", least, " - ", most, "]");
  const auto complaint = [least, most, wanted, range](const std::string& text) -> std::string {
    Number number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool is_good = error == std::errc() && end == text.data() + text.size() && number >= least && number <= most;
    return is_good ? "" : concat("'", text, "' must be ", wanted, " ", range);
  };
  return CLI::Validator(complaint, range, "");
}

/// @returns nothing where it is no size, or no int64_t holds it
std::optional<int64_t> parsed_bytes(const std::string& text) {
  constexpr std::string_view kPrefixes = "kmgtpe";
  double number = 0.0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(rest, text.data() + text.size());
  std::erase(unit, ' ');
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  double factor = 1.0;
  if (const size_t prefix = unit.empty() ? std::string::npos : kPrefixes.find(unit[0]); prefix != std::string::npos) {
    const bool is_binary = unit.size() > 1 && unit[1] == 'i';
    factor = std::pow(is_binary ? 1024.0 : 1000.0, static_cast<double>(prefix + 1));
    unit.erase(0, is_binary ? 2 : 1);
  }
  if (error != std::errc() || !(unit.empty() || unit == "b")) return std::nullopt;
  if (!(number >= 0) || number * factor >= 9e18) return std::nullopt;
  return static_cast<int64_t>(number * factor);
}

}  // namespace

CLI::Validator number_in(double least, double most) { return check(least, most, "a number"); }

CLI::Validator whole_number_in(int64_t least, int64_t most) { return check(least, most, "a whole number"); }

CLI::Validator size_in(int64_t least, int64_t most) {
  const auto to_bytes = [least, most](std::string& text) -> std::string {
    const std::optional<int64_t> bytes = parsed_bytes(text);
    if (!bytes) return concat("'", text, "' must be a size, such as 85899345920, 80GiB or 64GB");
    if (*bytes < least || *bytes > most) return concat("'", text, "' must be a size in [", least, " - ", most, "] bytes");
    text = std::to_string(*bytes);
    return "";
  };
  return CLI::Validator(to_bytes, "", "");
}

CLI::Validator not_empty() {
  return {[](const std::string& text) { return text.empty() ? std::string("must not be empty") : std::string(); }, ""};
}

}  // namespace pimoe
