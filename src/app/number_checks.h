#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>

namespace pimoe {

/// Checks of options' numbers. CLI11's own let NaN through and print limits of 300 digits.
///
/// @returns a check that refuses what is no number, NaN, or outside [least, most], with one short line; --help shows "FLOAT in [0 - 1]"
CLI::Validator number_in(double least, double most);

/// The same for whole numbers, refused before they could wrap around or be cut: -1 for an unsigned one, 30 digits.
CLI::Validator whole_number_in(int64_t least, int64_t most);

/// Makes bytes of a size, for `transform`: 85899345920, 80GiB, 1.5 TB, 8m; k, M, G, T, P, E with B are powers of 1000, with i or iB of 1024, in either case.
/// Refuses what is no size or outside [least, most].
CLI::Validator size_in(int64_t least, int64_t most);

/// A check that refuses the empty text, for names.
CLI::Validator not_empty();

}  // namespace pimoe
