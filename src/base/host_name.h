#pragma once

#include <string>

namespace pimoe {

/// @returns what this machine calls itself: "node07"; "unknown-host" where the system does not say
std::string host_name();

}  // namespace pimoe
