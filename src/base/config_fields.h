#pragma once

/// One list of fields for each config struct: it reads YAML, takes `a.b=c` overrides, prints, and refuses what it does not know.
///
///     struct OptimizerConfig {
///       double learning_rate = 1e-3;
///       Schedule schedule = Schedule::kCosine;
///       void fields(FieldVisitor& visit) {
///         visit.number("learning_rate", learning_rate, {.above = 0.0}, "peak learning rate");
///         visit.choice("schedule", schedule, {{"cosine", Schedule::kCosine}, {"linear", Schedule::kLinear}}, "shape after warm-up");
///       }
///     };
///
/// The struct lives beside its component; `load_fields` reads a whole tree of them; yaml-cpp is seen by config_yaml.cpp alone.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// What a number must satisfy; checked when it is read, with file, line and column in the message.
struct Range {
  double at_least = -std::numeric_limits<double>::infinity();
  double above = -std::numeric_limits<double>::infinity();
  double at_most = std::numeric_limits<double>::infinity();
  double below = std::numeric_limits<double>::infinity();
};

/// The most that a count of steps can be, in every field that has one: far beyond any run, and far from where sums of them overflow.
inline constexpr double kMostSteps = 1e12;

/// Visits the fields of a config struct in order. Names are one path element; `nested` opens a sub-tree.
class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  virtual void flag(const char* name, bool& value, const char* help) = 0;
  virtual void integer(const char* name, int64_t& value, Range range, const char* help) = 0;
  /// An integer or the word `auto`, which is stored as 0.
  virtual void integer_or_auto(const char* name, int64_t& value, Range range, const char* help) = 0;
  virtual void number(const char* name, double& value, Range range, const char* help) = 0;
  virtual void text(const char* name, std::string& value, const char* help) = 0;
  virtual void path(const char* name, std::filesystem::path& value, const char* help) = 0;

  /// A word out of a table; anything else is an error that lists the table and the nearest word.
  template <class Enum>
  void choice(const char* name, Enum& value, std::initializer_list<std::pair<const char*, Enum>> table, const char* help) {
    std::vector<std::string> words;
    size_t index = 0;
    for (const auto& [word, meaning] : table) {
      if (meaning == value) index = words.size();
      words.emplace_back(word);
    }
    word_choice(name, index, words, help);
    value = (table.begin() + index)->second;
  }

  /// The same for words that are not known when the program is compiled; `value` is one of them.
  void word(const char* name, std::string& value, const std::vector<std::string>& words, const char* help);

  /// Distinct words out of a table, in the order in which they are written: `[log, stop]`, or one word alone. A list replaces the one before it; [] is one.
  virtual void word_list(const char* name, std::vector<std::string>& values, const std::vector<std::string>& words, const char* help) = 0;

  template <class Struct>
  void nested(const char* name, Struct& value) {
    begin_nested(name);
    value.fields(*this);
    end_nested();
  }

  /// A list of structs: `groups: [{name: a, count: 2}, {name: b}]`, or a line that begins with `- ` for each. A list replaces the one before it
  /// as a whole, and what an element leaves out is the struct's default; [] is a list. The override `groups.1.count=4` changes an element
  /// that the file or an earlier override has. Everywhere else the key is written `groups[1].count`.
  template <class Struct>
  void list(const char* name, std::vector<Struct>& values, const char* help) {
    if (const std::optional<size_t> size = begin_list(name, values.size(), help)) values.assign(*size, Struct());
    for (size_t i = 0; i < values.size(); ++i) {
      begin_element(i);
      values[i].fields(*this);
      end_element();
    }
    end_list();
  }

  /// One text, or a list of structs in its place: whichever of the two is written replaces the other as a whole.
  /// REQUIRES that `values` is empty or `value` is
  template <class Struct>
  void text_or_list(const char* name, std::string& value, std::vector<Struct>& values, const char* help) {
    if (takes_list(name, /*is_list=*/!values.empty())) {
      value.clear();
      list(name, values, help);
    } else {
      values.clear();
      text(name, value, help);
    }
  }

 protected:
  /// Before a field that is one text or a list. @param is_list  what it is now  @returns whether it is to be visited as a list
  virtual bool takes_list(const char* name, bool is_list) {
    static_cast<void>(name);
    return is_list;
  }
  virtual void word_choice(const char* name, size_t& index, const std::vector<std::string>& words, const char* help) = 0;
  virtual void begin_nested(const char* name) = 0;
  virtual void end_nested() = 0;
  /// @param size  elements that the list has
  /// @returns the number of elements that take their place, all of them defaults; nothing where the list stays
  virtual std::optional<size_t> begin_list(const char* name, size_t size, const char* help) = 0;
  virtual void begin_element(size_t index) = 0;
  virtual void end_element() = 0;
  virtual void end_list() = 0;
};

/// Every violation of a configuration, so that all are reported at once.
class Violations {
 public:
  /// @param key   full path, "model.moe.experts" or "model.moe.groups[1].count"; its place in the file is added where it is known
  /// @param rule  what is wrong and what would be right: "(8) must be divisible by mesh.expert_parallel (3)"
  void add(const std::string& key, const std::string& rule);
  bool empty() const { return lines_.empty(); }
  const std::vector<std::pair<std::string, std::string>>& lines() const { return lines_; }

 private:
  std::vector<std::pair<std::string, std::string>> lines_;
};

/// Where each value came from: "configs/a.yaml:14:20" for a file's, "command line" for an override's, nothing for a default.
class ConfigOrigins {
 public:
  void set(const std::string& key, const std::string& origin);
  /// Drops all that is known of the elements of `list`, because another list replaces it.
  void forget_elements(const std::string& list);
  std::string of(const std::string& key) const;

 private:
  std::map<std::string, std::string> origins_;
};

/// One text that a configuration is read from.
struct ConfigSource {
  std::string yaml;
  std::string name;  ///< for messages: "configs/a.yaml"
};

/// @throws ConfigError if the file cannot be read; the message names it.
ConfigSource read_config_source(const std::filesystem::path& file);

/// Reads `sources`, the weakest first, and then `overrides` (each "a.b=c"; c is taken as it stands, or wholly in quotes as YAML) into the fields that `fields` visits, once
/// for each source and once for the overrides.
///
/// The last override of a key holds; `a.b=` sets the empty text. A source of nothing, and a group without keys, change nothing.
/// Refused: bytes that are no UTF-8, unknown and duplicate keys (with the nearest valid key), wrong types, non-finite numbers, numbers with a leading zero
/// (YAML would read 010 as octal 8), `<<` merges, anchors and aliases, several documents, a value where a map belongs and the reverse.
/// A weak source must be right even where a stronger one says otherwise.
///
/// @throws ConfigError listing every violation, each as "name:line:column: key: ..." (or "command line: key: ...")
ConfigOrigins load_fields(const std::vector<ConfigSource>& sources, const std::vector<std::string>& overrides,
                          const std::function<void(FieldVisitor&)>& fields);

/// The same for one source. @param file_name  for messages alone
ConfigOrigins load_fields(const std::string& yaml, const std::string& file_name, const std::vector<std::string>& overrides,
                          const std::function<void(FieldVisitor&)>& fields);

/// Looks up one key at the top before the rest can be read: a key that decides which sources there are.
///
/// @returns what the strongest of the sources and overrides that has `key` says. Nothing where none has it as one plain value; what is wrong
///          with it, and with everything else, load_fields reports.
std::optional<std::string> peek_text(const std::vector<ConfigSource>& sources, const std::vector<std::string>& overrides,
                                     const std::string& key);

/// @throws ConfigError with all of `violations`, each with its origin; does nothing when there are none.
void refuse(const Violations& violations, const ConfigOrigins& origins);

/// @returns the fields as YAML that load_fields reads back to the same values: doubles keep all their digits, text is in quotes, and 0 of
///          integer_or_auto is `auto`. Each line ends in its help as a comment, of a list's elements in the first one alone.
std::string print_fields(const std::function<void(FieldVisitor&)>& fields);

}  // namespace pimoe
