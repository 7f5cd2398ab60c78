#pragma once

/// What a process knows of the machine that it is on: its name, and its clock.

#include <string>

namespace pimoe {

/// @returns the machine's name; "unknown" where the system does not tell it
std::string host_name();

/// @returns seconds since 1970. The clock may be set while one looks: for people and files, not for durations
double wall_clock_seconds();

}  // namespace pimoe
