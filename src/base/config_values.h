#pragma once

#include "base/config_fields.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// (full path, value) of every single value, in the order of the fields: {"model.moe.groups[0].count", "4"}. Text stands without quotes, 0 of
/// integer_or_auto is `auto`.
using ConfigValues = std::vector<std::pair<std::string, std::string>>;

ConfigValues config_values(const std::function<void(FieldVisitor&)>& fields);

/// What differs between two configurations of one kind, one line for each key: "model.moe.experts: 8 in the checkpoint, 16 now". A value that one
/// of them does not have, because its list is shorter, is "nothing".
///
/// @param was, is  "in the checkpoint", "now"
std::vector<std::string> differing_values(const ConfigValues& before, const std::string& was, const ConfigValues& after,
                                          const std::string& is);

}  // namespace pimoe
