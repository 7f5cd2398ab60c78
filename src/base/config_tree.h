#pragma once

/// What a configuration says, before anybody asks what it means: a tree of keys with their places, and the list of what is wrong with it.
/// Internal to the config_*.cpp files.

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// Where a key or a value is written. A file's lines count from 1; on the command line, `line` is the override's index.
struct ConfigPlace {
  std::string source;  ///< the file's name, or "command line"
  int line = 0;
  int column = 0;  ///< 0 on the command line

  /// @returns "configs/a.yaml:14:20" or "command line"
  std::string text() const;
};

struct ConfigNode {
  enum class Kind { kNull, kScalar, kMap, kList };
  struct Entry;

  Kind kind = Kind::kNull;
  std::string scalar;
  bool quoted = false;  ///< the scalar is text, whatever it looks like
  ConfigPlace place;
  std::vector<Entry> entries;     ///< of a map, in the order of the file; keys are unique
  std::vector<ConfigNode> items;  ///< of a list
  bool opened_by_path = false;    ///< a map that overrides' paths made: it may stand for a list, with the indices of elements as keys

  const Entry* find(const std::string& key) const;
};

struct ConfigNode::Entry {
  std::string key;
  ConfigPlace place;
  ConfigNode value;
};

/// Everything that is wrong with a configuration.
class ConfigProblems {
 public:
  /// @param key  full path; empty when the message is about the whole file
  void add(const ConfigPlace& place, const std::string& key, const std::string& message);
  /// Problems of one source appear in the order of their lines; sources keep the order in which they were first complained about.
  /// @throws ConfigError with one line for each problem, when there are any.
  void refuse() const;
  size_t size() const { return problems_.size(); }

 private:
  struct Problem {
    ConfigPlace place;
    std::string line;
  };
  std::vector<Problem> problems_;
};

/// @returns "a.b" of "a" and "b", "b" of "" and "b".
std::string config_path(const std::string& parent, const std::string& key);

/// @returns "a.b[2]" of "a.b" and 2.
std::string element_path(const std::string& list, size_t index);

/// @returns the index that an override's path element is, if it is one of `size` elements and written plainly: 2, not 02 or +2.
std::optional<size_t> element_index(const std::string& text, size_t size);

/// @returns "the list has 2 elements, counted from 0".
std::string element_count(size_t size);

}  // namespace pimoe
