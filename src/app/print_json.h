#pragma once

#include <nlohmann/json_fwd.hpp>

namespace pimoe {

/// Prints one JSON document to the standard output. Paths, names and generated text come from outside: what is no UTF-8 is shown as U+FFFD.
///
/// @param indent  -1: on one line
void print_json(const nlohmann::ordered_json& document, int indent = 2);

}  // namespace pimoe
