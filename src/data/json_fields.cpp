#include "data/json_fields.h"

#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"

namespace pimoe {

JsonFields::JsonFields(const nlohmann::json& json, std::string place) : json_(json), place_(std::move(place)) {
  if (!json.is_object()) throw DataError(concat(place_, " is a JSON ", json.type_name(), ", and must be an object"));
}

const nlohmann::json* JsonFields::find(const std::string& key) {
  known_.insert(key);
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

const nlohmann::json& JsonFields::at(const std::string& key) {
  const nlohmann::json* found = find(key);
  if (found == nullptr) throw DataError(concat(place_, " has no ", key));
  return *found;
}

const std::string& JsonFields::text(const std::string& key) {
  const nlohmann::json& value = at(key);
  if (!value.is_string()) throw DataError(concat(place_, ".", key, " is a JSON ", value.type_name(), ", and must be a string"));
  return value.get_ref<const std::string&>();
}

const std::string& JsonFields::short_text(const std::string& key, size_t most_bytes) {
  const std::string& value = text(key);
  if (value.size() > most_bytes) {
    throw DataError(concat(place_, ".", key, " has ", value.size(), " bytes, and may have at most ", most_bytes));
  }
  return value;
}

bool JsonFields::flag(const std::string& key, bool when_missing) {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return when_missing;
  if (!value->is_boolean()) throw DataError(concat(place_, ".", key, " is a JSON ", value->type_name(), ", and must be true or false"));
  return value->get<bool>();
}

int64_t JsonFields::number(const std::string& key, int64_t below) { return whole_number(at(key), below, concat(place_, ".", key)); }

void JsonFields::each(const std::string& key, const std::function<void(const nlohmann::json&, const std::string&)>& take) {
  const nlohmann::json& list = at(key);
  if (!list.is_array()) throw DataError(concat(place_, ".", key, " must be a list"));
  for (size_t i = 0; i < list.size(); ++i) take(list[i], concat(place_, ".", key, "[", i, "]"));
}

void JsonFields::finish() const {
  for (const auto& item : json_.items()) {
    if (known_.contains(item.key())) continue;
    const std::string nearest = nearest_name(item.key(), {known_.begin(), known_.end()});
    throw DataError(concat(place_, " has the key '", printable(item.key()), "', which is not known here",
                           nearest.empty() ? "" : concat("; the nearest that is, is ", nearest)));
  }
}

int64_t whole_number(const nlohmann::json& json, int64_t below, const std::string& place) {
  if (json.is_number_unsigned() && json.get<uint64_t>() < static_cast<uint64_t>(below)) return static_cast<int64_t>(json.get<uint64_t>());
  throw DataError(concat(place, " (", printable(json.dump().substr(0, 40)), ") must be a whole number in [0, ", below, ")"));
}

}  // namespace pimoe
