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

/// A check that refuses the empty text, for names.
CLI::Validator not_empty();

}  // namespace pimoe
