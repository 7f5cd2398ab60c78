#include "base/strict_json.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/lfs_pointer.h"
#include "base/text.h"
#include "base/utf8.h"

#include <set>
#include <vector>

namespace pimoe {
namespace {

constexpr size_t kDeepest = 32;

template <class Json>
Json parse(const std::string& text, const std::string& name) {
  refuse_lfs_pointer(text, name);
  std::vector<std::set<std::string>> keys;  // of each open object; arrays have an empty set
  const auto look = [&](int, typename Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        keys.emplace_back();
        if (keys.size() > kDeepest) throw DataError(concat(name, ": is nested deeper than ", kDeepest, " levels"));
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end: keys.pop_back(); break;
      case Json::parse_event_t::key: {
        const std::string key = parsed.template get<std::string>();
        if (!keys.back().insert(key).second) throw DataError(concat(name, ": has the key '", printable(key), "' twice in one object"));
        break;
      }
      case Json::parse_event_t::value: break;
    }
    return true;
  };
  try {
    Json json = Json::parse(text, look);
    if (!json.is_object()) throw DataError(concat(name, ": is JSON, but no object"));
    return json;
  } catch (const typename Json::exception& error) {
    throw DataError(concat(name, ": is not JSON: ", printable(error.what())));
  }
}

}  // namespace

nlohmann::ordered_json parse_strict_json(const std::string& text, const std::string& name) {
  return parse<nlohmann::ordered_json>(text, name);
}

nlohmann::json parse_sorted_strict_json(const std::string& text, const std::string& name) { return parse<nlohmann::json>(text, name); }

nlohmann::ordered_json read_strict_json(const std::filesystem::path& file, uint64_t limit_bytes) {
  return parse_strict_json(read_regular_file(file, limit_bytes), file.string());
}

}  // namespace pimoe
