#include "monitor/record_values.h"

#include "base/text.h"

namespace pimoe {

double number_in(const nlohmann::json& record, const char* key) {
  const auto value = record.find(key);
  return value != record.end() && value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
}

std::string text_in(const nlohmann::json& record, const char* key) {
  const auto value = record.find(key);
  if (value == record.end()) return "";
  return value->is_string() ? value->get<std::string>() : value->dump();
}

std::vector<double> numbers_in(const nlohmann::json& record, const char* key, double otherwise) {
  const auto list = record.find(key);
  return list != record.end() ? numbers_of(*list, otherwise) : std::vector<double>();
}

std::vector<double> numbers_of(const nlohmann::json& list, double otherwise) {
  std::vector<double> numbers;
  if (!list.is_array()) return numbers;
  for (const nlohmann::json& value : list) numbers.push_back(value.is_number() ? value.get<double>() : otherwise);
  return numbers;
}

std::string without_step(const std::string& sentence, int64_t step) {
  const std::string beginning = concat("step ", step, ": ");
  return sentence.starts_with(beginning) ? sentence.substr(beginning.size()) : sentence;
}

}  // namespace pimoe
