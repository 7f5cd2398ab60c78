#pragma once

/// What a configuration says, before anybody asks what it means: a tree of keys with their places, and the list of what is wrong with it.
/// Internal to config_fields.cpp and config_reader.cpp.

#include <cstddef>
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
  std::vector<Entry> entries;  ///< of a map, in the order of the file; keys are unique

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

}  // namespace pimoe
