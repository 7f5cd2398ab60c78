#include "base/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>

namespace pimoe {
namespace {

std::string printed(const char* format, int decimals, double value) {
  if (std::isnan(value)) return "nan";  // its sign means nothing
  const int length = std::snprintf(nullptr, 0, format, decimals, value);
  std::string out(static_cast<size_t>(length) + 1, '\0');
  std::snprintf(out.data(), out.size(), format, decimals, value);
  out.pop_back();
  return out;
}

/// Edits (insert, delete, replace, swap two neighbours) that turn `a` into `b`: Levenshtein's table, three rows of it.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last(b.size() + 1);
  std::vector<size_t> last(b.size() + 1);
  std::vector<size_t> current(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({last[j] + 1, current[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) current[j] = std::min(current[j], before_last[j - 2] + 1);
    }
    std::swap(before_last, last);
    std::swap(last, current);
  }
  return last[b.size()];
}

}  // namespace

std::string fixed(double value, int decimals) { return printed("%.*f", decimals, value); }

std::string scientific(double value, int decimals) { return printed("%.*e", decimals, value); }

std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  const int64_t first_digit = value < 0 ? 1 : 0;
  for (int64_t place = static_cast<int64_t>(digits.size()) - 3; place > first_digit; place -= 3) {
    digits.insert(static_cast<size_t>(place), 1, ',');
  }
  return digits;
}

std::string counted(int64_t number, std::string_view thing) { return concat(grouped(number), " ", thing, number == 1 ? "" : "s"); }

std::string human_bytes(double bytes) {
  static constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  size_t unit = 0;
  // 999.95 would be printed as "1000.0".
  while (unit + 1 < kUnits.size() && std::abs(bytes) >= (unit == 0 ? 999.5 : 999.95)) {
    bytes /= 1000;
    ++unit;
  }
  return fixed(bytes, unit == 0 ? 0 : 1) + " " + kUnits[unit];
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds)) return "unknown";
  if (seconds < 0) return concat("-", human_duration(-seconds));
  if (seconds < 9.95) return fixed(seconds, 1) + "s";
  if (seconds < 59.5) return fixed(seconds, 0) + "s";
  if (seconds < 3599.5) {
    const auto whole = static_cast<int64_t>(std::llround(seconds));
    return std::to_string(whole / 60) + "m " + padded(whole % 60, 2) + "s";
  }
  if (seconds > 1000.0 * 86400) return "over 1000 days";
  const double minutes = std::round(seconds / 60);
  return fixed(std::floor(minutes / 60), 0) + "h " + padded(static_cast<int64_t>(std::fmod(minutes, 60)), 2) + "m";
}

std::string three_digits(double value) { return fixed(value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0); }

std::string time_text(double seconds) {
  if (seconds >= 0.9995) return three_digits(seconds) + " s";
  if (seconds >= 0.9995e-3) return three_digits(seconds * 1e3) + " ms";
  return three_digits(seconds * 1e6) + " us";
}

std::string percent_text(double share) { return concat(fixed(100 * share, share < 0.0995 ? 1 : 0), " %"); }

std::optional<double> parse_duration(std::string_view text) {
  constexpr double kMost = 1000.0 * 86400;
  const auto whole = [](std::string_view digits) -> std::optional<double> {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value < 0 || digits.front() == '-') return std::nullopt;
    return static_cast<double>(value);
  };
  if (text.empty()) return std::nullopt;
  double seconds = 0.0;
  const size_t unit = std::string_view("smhd").find(text.back());
  if (unit != std::string_view::npos) {
    constexpr std::array kSeconds = {1.0, 60.0, 3600.0, 86400.0};
    const auto count = text.size() > 1 ? whole(text.substr(0, text.size() - 1)) : std::nullopt;
    if (!count) return std::nullopt;
    seconds = *count * kSeconds[unit];
  } else {
    if (const size_t dash = text.find('-'); dash != std::string_view::npos) {
      const auto days = dash > 0 ? whole(text.substr(0, dash)) : std::nullopt;
      if (!days) return std::nullopt;
      seconds = *days * 24;
      text.remove_prefix(dash + 1);
      if (std::count(text.begin(), text.end(), ':') != 2) return std::nullopt;
    }
    const std::vector<std::string> fields = split(text, ':');
    if (fields.size() < 2 || fields.size() > 3) return std::nullopt;
    for (size_t index = 0; index < fields.size(); ++index) {
      const auto field = fields[index].empty() ? std::nullopt : whole(fields[index]);
      if (!field || (index > 0 && *field >= 60)) return std::nullopt;
      seconds = index == 0 ? seconds * (fields.size() == 3 ? 1 : 0) + *field : seconds * 60 + *field;
    }
  }
  return seconds <= kMost ? std::optional(seconds) : std::nullopt;
}

std::string padded(int64_t number, int digits) {
  std::string text = std::to_string(number);
  const size_t sign = number < 0 ? 1 : 0;
  const auto wanted = static_cast<size_t>(std::max(digits, 0)) + sign;
  if (text.size() < wanted) text.insert(sign, wanted - text.size(), '0');
  return text;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += separator;
    out += parts[i];
  }
  return out;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (true) {
    const size_t end = text.find(separator, begin);
    parts.emplace_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

std::string nearest_name(std::string_view word, const std::vector<std::string>& names) {
  const size_t tolerated = std::max<size_t>(2, word.size() / 3);
  std::string nearest;
  size_t smallest = tolerated + 1;
  for (const std::string& name : names) {
    const size_t distance = edit_distance(word, name);
    // When every letter had to change, the two have nothing in common.
    if (distance >= std::max(word.size(), name.size())) continue;
    if (distance < smallest) {
      smallest = distance;
      nearest = name;
    }
  }
  return nearest;
}

}  // namespace pimoe
