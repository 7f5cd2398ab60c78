#pragma once

/// Values of a record of metrics.jsonl, or an event of events.jsonl, that may be missing or of another kind than one expects.

#include <nlohmann/json.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace pimoe {

/// @param record  an object, or null: nothing was read  @returns NaN where it has no such number
double number_in(const nlohmann::json& record, const char* key);

/// @returns "" where it is missing; what is no string as JSON writes it
std::string text_in(const nlohmann::json& record, const char* key);

/// @returns a list of numbers, empty where there is none  @param otherwise  stands for what is no number in it
std::vector<double> numbers_in(const nlohmann::json& record, const char* key, double otherwise = std::numeric_limits<double>::quiet_NaN());
/// The same of a list by itself.
std::vector<double> numbers_of(const nlohmann::json& list, double otherwise = std::numeric_limits<double>::quiet_NaN());

/// @returns an alarm without the step that it begins with, which stands beside it anyway
std::string without_step(const std::string& sentence, int64_t step);

}  // namespace pimoe
