#pragma once

#include <exception>
#include <string>

namespace pimoe {

/// @returns what an exception says; where a thread could not be started, whose own words are "Resource temporarily unavailable", what that means and
///          what helps
std::string message_or_thread_advice(const std::exception& error);

}  // namespace pimoe
