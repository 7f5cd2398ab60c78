#include "base/number_text.h"

#include <array>
#include <charconv>

namespace pimoe {

std::string shortest(double value) {
  std::array<char, 32> digits;
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return std::string(digits.data(), end);
}

}  // namespace pimoe
