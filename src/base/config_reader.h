#pragma once

/// Reads a ConfigNode tree into the fields of a config struct, and complains about what does not fit. Internal to config_fields.cpp.

#include <string>
#include <vector>

#include "base/config_fields.h"
#include "base/config_tree.h"

namespace pimoe {

class ConfigReader : public FieldVisitor {
 public:
  /// @param root  a map or nothing; all three must outlive the reader
  ConfigReader(const ConfigNode& root, ConfigProblems& problems, ConfigOrigins& origins);

  /// Complains about every key that no field asked for. To be called once, after the fields have been visited.
  void refuse_unknown_keys();

  void flag(const char* name, bool& value, const char* help) override;
  void integer(const char* name, int64_t& value, Range range, const char* help) override;
  void integer_or_auto(const char* name, int64_t& value, Range range, const char* help) override;
  void number(const char* name, double& value, Range range, const char* help) override;
  void text(const char* name, std::string& value, const char* help) override;
  void path(const char* name, std::filesystem::path& value, const char* help) override;
  void word_list(const char* name, std::vector<std::string>& values, const std::vector<std::string>& words, const char* help) override;

 protected:
  bool takes_list(const char* name, bool is_list) override;
  void word_choice(const char* name, size_t& index, const std::vector<std::string>& words, const char* help) override;
  void begin_nested(const char* name) override;
  void end_nested() override;
  std::optional<size_t> begin_list(const char* name, size_t size, const char* help) override;
  void begin_element(size_t index) override;
  void end_element() override;
  void end_list() override;

 private:
  struct Level {
    const ConfigNode* map;  ///< null where the configuration has nothing for this struct
    std::string path;
    std::vector<std::string> names;  ///< of the fields visited so far
    bool repeats = false;            ///< a later element of a list: the first one has the same names
  };
  struct List {
    const ConfigNode* node;  ///< a list, or a map that overrides' paths made; null where the configuration has nothing for this list
    std::string path;
    size_t size;
    std::string instead = {};  ///< of a field that is one value now, and could be a list: what it may be
  };
  struct Unknown {
    const ConfigNode::Entry* entry;
    std::string parent;
    std::vector<std::string> siblings;
  };

  /// @returns the entry of a field of the present struct, or null; notes the name as a valid one.
  const ConfigNode::Entry* entry_of(const char* name);
  /// @returns the full path of a field of the present struct.
  std::string path_of(const std::string& name) const { return config_path(levels_.back().path, name); }
  /// Hands the field's value, if the configuration has one, to `read`, which returns what is wrong with it or "".
  template <class Read>
  void read_value(const char* name, Read read);
  void complain(const ConfigNode::Entry& entry, const std::string& message);
  void collect_unknown(const Level& level);
  std::string suggestion(const Unknown& unknown) const;
  /// @returns "checkpoint.every_steps or log.every_steps" for "every_steps", "" where no path ends so.
  std::string paths_that_end_in(const std::string& name) const;

  ConfigProblems& problems_;
  ConfigOrigins& origins_;
  std::vector<Level> levels_;
  std::vector<List> lists_;
  bool is_one_value_ = false;  ///< the field that is about to be visited as a list, because an override speaks of an element
  std::vector<std::string> all_paths_;
  std::vector<Unknown> unknown_;
};

}  // namespace pimoe
