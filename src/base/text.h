#pragma once

/// Small text helpers for messages and log lines (std::format is not in g++ 12, and libtorch's fmt shadows the system's).

#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace pimoe {

/// @returns every argument written with `<<`, one after the other.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// @returns `value` with `decimals` digits after the point: fixed(3.14159, 2) is "3.14".
std::string fixed(double value, int decimals);

/// @returns `value` in scientific form: scientific(0.00094, 1) is "9.4e-04".
std::string scientific(double value, int decimals);

/// @returns `value` with thousands separated: grouped(1234567) is "1,234,567".
std::string grouped(int64_t value);

/// @returns a number of things: counted(1, "step") is "1 step", counted(1234, "step") is "1,234 steps".
std::string counted(int64_t number, std::string_view thing);

/// @returns a size in the unit a person would choose: "61.2 GB", "512 B" (powers of 1000).
std::string human_bytes(double bytes);

/// @returns a duration as a person says it: "3h 12m", "4m 05s", "12s", "0.4s"; "unknown" for what is not finite, "over 1000 days"
///          beyond them.
std::string human_duration(double seconds);

/// @returns a short time with three digits: time_text(0.0241) is "24.1 ms"; from microseconds to seconds.
std::string time_text(double seconds);

/// @returns a share as a person says it: percent_text(0.834) is "83 %", percent_text(0.0834) is "8.3 %".
std::string percent_text(double share);

/// @returns `value`, at least 1 and below 1000, with three digits.
std::string three_digits(double value);

/// @returns seconds of "90s", "45m", "12h", "2d", or Slurm's "MM:SS", "HH:MM:SS", "D-HH:MM:SS"; nothing for other texts, and beyond 1000 days.
std::optional<double> parse_duration(std::string_view text);

/// @returns `number` with leading zeros: padded(42, 8) is "00000042".
std::string padded(int64_t number, int digits);

/// @returns `parts` joined by `separator`.
std::string join(const std::vector<std::string>& parts, std::string_view separator);

/// @returns `text` cut at every `separator`; an empty text gives one empty part.
std::vector<std::string> split(std::string_view text, char separator);

/// @returns the member of `names` with the smallest edit distance to `word`, or "" when none is near enough to be a typing error
///          (distance at most a third of the word's length, at least 2, and something of the word kept). Swapping two neighbouring letters
///          is one edit; of several equally near the first.
std::string nearest_name(std::string_view word, const std::vector<std::string>& names);

}  // namespace pimoe
