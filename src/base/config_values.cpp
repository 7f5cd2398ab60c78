#include "base/config_values.h"

#include <algorithm>
#include <map>

#include "base/config_tree.h"
#include "base/number_text.h"
#include "base/text.h"

namespace pimoe {
namespace {

class ValueCollector : public FieldVisitor {
 public:
  ConfigValues values() && { return std::move(values_); }

  void flag(const char* name, bool& value, const char*) override { add(name, value ? "true" : "false"); }
  void integer(const char* name, int64_t& value, Range, const char*) override { add(name, std::to_string(value)); }
  void integer_or_auto(const char* name, int64_t& value, Range, const char*) override {
    add(name, value == 0 ? "auto" : std::to_string(value));
  }
  void number(const char* name, double& value, Range, const char*) override { add(name, shortest(value)); }
  void text(const char* name, std::string& value, const char*) override { add(name, value); }
  void path(const char* name, std::filesystem::path& value, const char*) override { add(name, value.string()); }
  void word_list(const char* name, std::vector<std::string>& values, const std::vector<std::string>&, const char*) override {
    add(name, concat("[", join(values, ", "), "]"));
  }

 protected:
  void word_choice(const char* name, size_t& index, const std::vector<std::string>& words, const char*) override {
    add(name, words.at(index));
  }
  void begin_nested(const char* name) override { paths_.push_back(path_of(name)); }
  void end_nested() override { paths_.pop_back(); }
  std::optional<size_t> begin_list(const char* name, size_t, const char*) override {
    paths_.push_back(path_of(name));
    return std::nullopt;
  }
  void begin_element(size_t index) override { paths_.push_back(element_path(paths_.back(), index)); }
  void end_element() override { paths_.pop_back(); }
  void end_list() override { paths_.pop_back(); }

 private:
  std::string path_of(const char* name) const { return config_path(paths_.back(), name); }
  void add(const char* name, const std::string& value) { values_.emplace_back(path_of(name), value); }

  std::vector<std::string> paths_ = {""};
  ConfigValues values_;
};

}  // namespace

ConfigValues config_values(const std::function<void(FieldVisitor&)>& fields) {
  ValueCollector collector;
  fields(collector);
  return std::move(collector).values();
}

std::vector<std::string> differing_values(const ConfigValues& before, const std::string& was, const ConfigValues& after,
                                          const std::string& is) {
  const std::map<std::string, std::string> old(before.begin(), before.end());
  std::map<std::string, std::string> gone = old;
  const auto shown = [](const std::string& value) { return value.empty() ? std::string("empty") : value; };
  std::vector<std::string> lines;
  for (const auto& [key, value] : after) {
    gone.erase(key);
    const auto found = old.find(key);
    if (found != old.end() && found->second == value) continue;
    lines.push_back(concat(key, ": ", found == old.end() ? "nothing" : shown(found->second), " ", was, ", ", shown(value), " ", is));
  }
  for (const auto& [key, value] : gone) lines.push_back(concat(key, ": ", shown(value), " ", was, ", nothing ", is));
  return lines;
}

}  // namespace pimoe
