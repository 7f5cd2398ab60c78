#include "base/config_fields.h"

#include <algorithm>
#include <system_error>

#include "base/config_overrides.h"
#include "base/config_reader.h"
#include "base/config_tree.h"
#include "base/config_yaml.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/run_paths.h"
#include "base/text.h"

namespace pimoe {
namespace {

/// @returns one tree for each source, weakest first, and then the one of the overrides.
std::vector<ConfigNode> parse_all(const std::vector<ConfigSource>& sources, const std::vector<std::string>& overrides,
                                  ConfigProblems& problems) {
  std::vector<ConfigNode> roots;
  for (const ConfigSource& source : sources) roots.push_back(parse_source(source, problems));
  roots.push_back(parse_overrides(overrides, problems));
  return roots;
}

}  // namespace

void FieldVisitor::word(const char* name, std::string& value, const std::vector<std::string>& words, const char* help) {
  auto index = static_cast<size_t>(std::find(words.begin(), words.end(), value) - words.begin());
  word_choice(name, index, words, help);
  value = words.at(index);
}

ConfigSource read_config_source(const std::filesystem::path& file) {
  if (std::error_code ignored; std::filesystem::is_directory(file, ignored)) {
    const std::filesystem::path inside = RunPaths(file).config();
    throw ConfigError(concat("configuration: ", file.string(), " is a folder, and must be a file of YAML",
                             std::filesystem::exists(inside, ignored) ? concat(": ", inside.string(), " is that of the run in it") : ""));
  }
  try {
    return {read_file(file, kMostYamlBytes), file.string()};
  } catch (const IoError& error) {
    throw ConfigError(concat("configuration: ", error.what()));
  }
}

ConfigOrigins load_fields(const std::vector<ConfigSource>& sources, const std::vector<std::string>& overrides,
                          const std::function<void(FieldVisitor&)>& fields) {
  ConfigProblems problems;
  ConfigOrigins origins;
  for (const ConfigNode& root : parse_all(sources, overrides, problems)) {
    ConfigReader reader(root, problems, origins);
    fields(reader);
    reader.refuse_unknown_keys();
  }
  problems.refuse();
  return origins;
}

ConfigOrigins load_fields(const std::string& yaml, const std::string& file_name, const std::vector<std::string>& overrides,
                          const std::function<void(FieldVisitor&)>& fields) {
  return load_fields({{yaml, file_name}}, overrides, fields);
}

std::optional<std::string> peek_text(const std::vector<ConfigSource>& sources, const std::vector<std::string>& overrides,
                                     const std::string& key) {
  ConfigProblems ignored;
  std::optional<std::string> text;
  for (const ConfigNode& root : parse_all(sources, overrides, ignored)) {
    const ConfigNode::Entry* const entry = root.find(key);
    if (entry != nullptr && entry->value.kind == ConfigNode::Kind::kScalar) text = entry->value.scalar;
  }
  return text;
}

}  // namespace pimoe
