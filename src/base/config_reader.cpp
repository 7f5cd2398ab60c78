#include "base/config_reader.h"

#include <algorithm>
#include <utility>

#include "base/config_scalar.h"
#include "base/text.h"

namespace pimoe {
namespace {

/// Beyond so many problems the file is of another kind altogether, and looking for near names takes long for nothing.
constexpr size_t kMostSuggestions = 100;

std::string last_element(const std::string& path) { return path.substr(path.rfind('.') + 1); }

/// @returns the name that `key` shortens: lr for learning_rate, dir for directory; "" where there is none.
std::string shortened_name(const std::string& key, const std::vector<std::string>& names) {
  const auto found = std::find_if(names.begin(), names.end(), [&key](const std::string& name) {
    std::string initials;
    for (const std::string& word : split(name, '_')) initials += word.substr(0, 1);
    return key.size() >= 2 && (key == initials || name.starts_with(key));
  });
  return found == names.end() ? "" : *found;
}

}  // namespace

ConfigReader::ConfigReader(const ConfigNode& root, ConfigProblems& problems, ConfigOrigins& origins)
    : problems_(problems), origins_(origins), levels_{{&root, "", {}, false}} {}

const ConfigNode::Entry* ConfigReader::entry_of(const char* name) {
  Level& level = levels_.back();
  level.names.emplace_back(name);
  if (!level.repeats) all_paths_.push_back(path_of(name));
  return level.map == nullptr ? nullptr : level.map->find(name);
}

void ConfigReader::complain(const ConfigNode::Entry& entry, const std::string& message) {
  // The parser places a missing value behind the line break; the key is where the reader should look.
  const ConfigPlace& place = entry.value.kind == ConfigNode::Kind::kNull ? entry.place : entry.value.place;
  problems_.add(place, path_of(entry.key), message);
}

template <class Read>
void ConfigReader::read_value(const char* name, Read read) {
  const ConfigNode::Entry* const entry = entry_of(name);
  if (entry == nullptr) return;
  std::string complaint;
  switch (entry->value.kind) {
    case ConfigNode::Kind::kNull: complaint = "has no value; leave the key out to take the default"; break;
    case ConfigNode::Kind::kMap: complaint = "is one value, not a group of keys"; break;
    case ConfigNode::Kind::kList: complaint = "is one value, not a list"; break;
    case ConfigNode::Kind::kScalar: complaint = read(entry->value); break;
  }
  if (complaint.empty()) {
    origins_.set(path_of(name), entry->value.place.text());
  } else {
    complain(*entry, complaint);
  }
}

void ConfigReader::flag(const char* name, bool& value, const char*) {
  read_value(name, [&](const ConfigNode& node) { return read_flag(node, value); });
}

void ConfigReader::integer(const char* name, int64_t& value, Range range, const char*) {
  read_value(name, [&](const ConfigNode& node) { return read_integer(node, range, value); });
}

void ConfigReader::integer_or_auto(const char* name, int64_t& value, Range range, const char*) {
  read_value(name, [&](const ConfigNode& node) -> std::string {
    if (node.scalar == "auto") {
      value = 0;
      return "";
    }
    const std::string complaint = read_integer(node, range, value);
    return complaint.empty() ? "" : complaint + " (or the word auto)";
  });
}

void ConfigReader::number(const char* name, double& value, Range range, const char*) {
  read_value(name, [&](const ConfigNode& node) { return read_number(node, range, value); });
}

void ConfigReader::text(const char* name, std::string& value, const char*) {
  read_value(name, [&](const ConfigNode& node) -> std::string {
    // The system would read a name up to it, and no further.
    if (node.scalar.find('\0') != std::string::npos) return "must not have a NUL";
    value = node.scalar;
    return "";
  });
}

void ConfigReader::path(const char* name, std::filesystem::path& value, const char*) {
  read_value(name, [&](const ConfigNode& node) -> std::string {
    // The system would read a name up to it, and no further.
    if (node.scalar.find('\0') != std::string::npos) return "must not have a NUL";
    value = node.scalar;
    return "";
  });
}

void ConfigReader::word_list(const char* name, std::vector<std::string>& values, const std::vector<std::string>& words, const char*) {
  const ConfigNode::Entry* const entry = entry_of(name);
  if (entry == nullptr) return;
  const ConfigNode& node = entry->value;
  std::vector<ConfigNode> items;
  if (node.kind == ConfigNode::Kind::kList) items = node.items;
  if (node.kind == ConfigNode::Kind::kScalar) items = {node};
  std::string complaint = node.kind == ConfigNode::Kind::kNull
                              ? "has no value; leave the key out to take the default, or write [] for no words"
                          : node.kind == ConfigNode::Kind::kMap ? concat("is a list of words ([", words.front(), "]), not a group of keys")
                                                                : "";
  std::vector<std::string> read;
  for (const ConfigNode& item : items) {
    size_t index = 0;
    if (!complaint.empty()) break;
    complaint = item.kind == ConfigNode::Kind::kScalar ? read_word(item, words, index) : "is a list of words, each one value";
    if (!complaint.empty()) break;
    if (std::find(read.begin(), read.end(), words[index]) != read.end()) complaint = concat(words[index], " is there twice");
    read.push_back(words[index]);
  }
  if (!complaint.empty()) return complain(*entry, complaint);
  values = std::move(read);
  origins_.set(path_of(name), node.place.text());
}

bool ConfigReader::takes_list(const char* name, bool is_list) {
  const ConfigNode* const map = levels_.back().map;
  const ConfigNode::Entry* const entry = map == nullptr ? nullptr : map->find(name);
  if (entry == nullptr || entry->value.kind == ConfigNode::Kind::kNull) return is_list;
  is_one_value_ = !is_list && entry->value.kind == ConfigNode::Kind::kMap;
  if (entry->value.kind != ConfigNode::Kind::kScalar) return true;
  origins_.forget_elements(path_of(name));
  return false;
}

void ConfigReader::word_choice(const char* name, size_t& index, const std::vector<std::string>& words, const char*) {
  read_value(name, [&](const ConfigNode& node) { return read_word(node, words, index); });
}

void ConfigReader::begin_nested(const char* name) {
  const ConfigNode::Entry* const entry = entry_of(name);
  const ConfigNode* map = nullptr;
  if (entry != nullptr && entry->value.kind == ConfigNode::Kind::kMap) {
    map = &entry->value;
    origins_.set(path_of(name), map->place.text());
  } else if (entry != nullptr && entry->value.kind != ConfigNode::Kind::kNull) {
    complain(*entry, "is a group of keys, not one value");
  }
  levels_.push_back({map, path_of(name), {}, levels_.back().repeats});
}

void ConfigReader::end_nested() {
  collect_unknown(levels_.back());
  levels_.pop_back();
}

std::optional<size_t> ConfigReader::begin_list(const char* name, size_t size, const char* help) {
  const ConfigNode::Entry* const entry = entry_of(name);
  lists_.push_back({nullptr, path_of(name), size});
  if (std::exchange(is_one_value_, false)) lists_.back().instead = help;
  if (entry == nullptr) return std::nullopt;
  switch (entry->value.kind) {
    case ConfigNode::Kind::kNull:
      complain(*entry, "has no value; leave the key out to take the default, or write [] for no elements");
      break;
    case ConfigNode::Kind::kScalar: complain(*entry, "is a list ([{...}, {...}], or lines that begin with '- '), not one value"); break;
    case ConfigNode::Kind::kMap:
      if (entry->value.opened_by_path) {
        lists_.back().node = &entry->value;
      } else {
        complain(*entry, "is a list ([{...}, {...}], or lines that begin with '- '), not a group of keys");
      }
      break;
    case ConfigNode::Kind::kList:
      lists_.back() = {&entry->value, path_of(name), entry->value.items.size()};
      origins_.forget_elements(path_of(name));
      origins_.set(path_of(name), entry->value.place.text());
      return entry->value.items.size();
  }
  return std::nullopt;
}

void ConfigReader::begin_element(size_t index) {
  const List& list = lists_.back();
  const std::string path = element_path(list.path, index);
  const ConfigNode* node = nullptr;
  if (list.node != nullptr && list.node->kind == ConfigNode::Kind::kList) {
    node = &list.node->items[index];
  } else if (list.node != nullptr) {
    const ConfigNode::Entry* const entry = list.node->find(std::to_string(index));
    node = entry == nullptr ? nullptr : &entry->value;
  }
  if (node != nullptr && node->kind == ConfigNode::Kind::kMap) {
    // An override of one key says nothing about where the element came from.
    if (!node->opened_by_path) origins_.set(path, node->place.text());
  } else if (node != nullptr) {
    // The parser places a missing element where the next one begins; the list is where the reader should look.
    const bool missing = node->kind == ConfigNode::Kind::kNull;
    problems_.add(missing ? list.node->place : node->place, path,
                  missing ? "has no value; write {} for an element of defaults" : "is a group of keys, not one value");
    node = nullptr;
  }
  levels_.push_back({node, path, {}, index > 0 || levels_.back().repeats});
}

void ConfigReader::end_element() { end_nested(); }

void ConfigReader::end_list() {
  const List& list = lists_.back();
  if (list.node != nullptr) {
    for (const ConfigNode::Entry& entry : list.node->entries) {
      if (element_index(entry.key, list.size)) continue;
      problems_.add(
          entry.place, config_path(list.path, entry.key),
          concat("there is no element ", entry.key, ": ",
                 list.instead.empty() ? element_count(list.size)
                                      : concat(list.path, " is one value, not a list. Either it is, as a whole: ", list.instead)));
    }
  }
  lists_.pop_back();
}

void ConfigReader::collect_unknown(const Level& level) {
  if (level.map == nullptr) return;
  for (const ConfigNode::Entry& entry : level.map->entries) {
    if (std::find(level.names.begin(), level.names.end(), entry.key) != level.names.end()) continue;
    unknown_.push_back({&entry, level.path, level.names});
  }
}

void ConfigReader::refuse_unknown_keys() {
  collect_unknown(levels_.back());
  for (const Unknown& unknown : unknown_) {
    const std::string hint = problems_.size() < kMostSuggestions ? suggestion(unknown) : "";
    problems_.add(unknown.entry->place, config_path(unknown.parent, unknown.entry->key), "unknown key" + hint);
  }
}

std::string ConfigReader::suggestion(const Unknown& unknown) const {
  const std::string& key = unknown.entry->key;
  if (std::find(all_paths_.begin(), all_paths_.end(), key) != all_paths_.end()) {
    return concat("; write ", last_element(key), " on a line of its own under ", key.substr(0, key.rfind('.')));
  }
  // The name may be right and its place wrong; else it is a typing error, here or, less likely, in another group.
  std::string paths = paths_that_end_in(key);
  std::string sibling = nearest_name(key, unknown.siblings);
  if (sibling.empty()) sibling = shortened_name(key, unknown.siblings);
  if (paths.empty() && !sibling.empty()) paths = config_path(unknown.parent, sibling);
  if (paths.empty()) {
    std::vector<std::string> names;
    for (const std::string& path : all_paths_) names.push_back(last_element(path));
    paths = paths_that_end_in(nearest_name(key, names));
  }
  return paths.empty() ? concat("; known here: ", join(unknown.siblings, ", ")) : concat("; did you mean ", paths, "?");
}

std::string ConfigReader::paths_that_end_in(const std::string& name) const {
  std::vector<std::string> paths;
  for (const std::string& path : all_paths_) {
    if (last_element(path) == name) paths.push_back(path);
  }
  return join(paths, " or ");
}

}  // namespace pimoe
