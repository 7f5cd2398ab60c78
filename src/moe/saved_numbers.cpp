#include "moe/saved_numbers.h"

#include "base/errors.h"
#include "base/text.h"

#include <algorithm>

namespace pimoe {

std::map<std::string, double> numbers_of(const NumberList& list) {
  std::map<std::string, double> numbers;
  list([&numbers](const std::string& key, double& value) { numbers[key] = value; });
  return numbers;
}

bool begins_with(const std::string& key, const char* prefix) { return key.rfind(prefix, 0) == 0; }

bool take_numbers(const NumberList& list, const char* prefix, const char* owner, const std::map<std::string, double>& numbers) {
  const auto is_of_owner = [prefix](const auto& number) { return begins_with(number.first, prefix); };
  if (std::none_of(numbers.begin(), numbers.end(), is_of_owner)) return false;
  list([&](const std::string& key, double& value) {
    const auto found = numbers.find(key);
    if (found == numbers.end()) throw CheckpointError(concat("the checkpoint's state of ", owner, " has no '", key, "'"));
    value = found->second;
  });
  return true;
}

}  // namespace pimoe
