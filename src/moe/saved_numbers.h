#pragma once

#include <functional>
#include <map>
#include <string>

namespace pimoe {

/// What sees each number of an object's state, under the key that a checkpoint keeps it by.
using NumberVisitor = std::function<void(const std::string& key, double& value)>;
/// Shows a visitor every number of an object: one list for both ways.
using NumberList = std::function<void(const NumberVisitor& visit)>;

std::map<std::string, double> numbers_of(const NumberList& list);

bool begins_with(const std::string& key, const char* prefix);

/// Takes an object's numbers out of a larger map.
/// @param prefix  of all the object's keys  @param owner  for the message: "adaptive control"
/// @returns false, and changes nothing, if there is none of them
/// @throws CheckpointError if there is only a part of them; what was taken before stays taken
bool take_numbers(const NumberList& list, const char* prefix, const char* owner, const std::map<std::string, double>& numbers);

}  // namespace pimoe
