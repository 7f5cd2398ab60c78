#pragma once

#include <string>

namespace pimoe {

/// @returns the fewest digits that read back as the same number: "0.001", "1e+20". For numbers that a person set: `<<` keeps six digits, and a
///          message about two that differ in the seventh would show them alike.
std::string shortest(double value);

}  // namespace pimoe
