#include "app/number_checks.h"

#include "base/text.h"

#include <charconv>
#include <string>

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

}  // namespace

CLI::Validator number_in(double least, double most) { return check(least, most, "a number"); }

CLI::Validator whole_number_in(int64_t least, int64_t most) { return check(least, most, "a whole number"); }

CLI::Validator not_empty() {
  return {[](const std::string& text) { return text.empty() ? std::string("must not be empty") : std::string(); }, ""};
}

}  // namespace pimoe
