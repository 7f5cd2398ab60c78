#include "base/config_overrides.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/config_yaml.h"
#include "base/text.h"

namespace pimoe {
namespace {

constexpr const char* kBothValueAndGroup = "is set both as one value and as a group of keys";

/// @returns {"a", "b", "2", "c"} of "a.b.2.c" and of "a.b[2].c", which is how messages name an element.
std::vector<std::string> path_elements(const std::string& key) {
  std::vector<std::string> elements;
  for (const std::string& part : split(key, '.')) {
    const size_t bracket = part.find('[');
    const std::string index = bracket != std::string::npos && part.back() == ']' ? part.substr(bracket + 1, part.size() - bracket - 2) : "";
    const bool is_element = !index.empty() && index.find_first_not_of("0123456789") == std::string::npos;
    elements.push_back(is_element ? part.substr(0, bracket) : part);
    if (is_element) elements.push_back(index);
  }
  return elements;
}

/// @returns the node below `parent` that `element` names, made (a null) where a map has none; nothing where a list has none.
ConfigNode* child_of(ConfigNode& parent, const std::string& element, const ConfigPlace& place) {
  if (parent.kind == ConfigNode::Kind::kList) {
    const std::optional<size_t> index = element_index(element, parent.items.size());
    return index ? &parent.items[*index] : nullptr;
  }
  const auto found = std::find_if(parent.entries.begin(), parent.entries.end(), [&](const auto& entry) { return entry.key == element; });
  if (found != parent.entries.end()) return &found->value;
  ConfigNode child;
  child.place = place;
  parent.entries.push_back({element, place, std::move(child)});
  return &parent.entries.back().value;
}

/// Puts `value` at `elements` below `root`, a map. @returns what an earlier override says against it, or "".
std::string insert(ConfigNode& root, const std::vector<std::string>& elements, const ConfigNode& value) {
  ConfigNode* node = &root;
  for (const std::string& element : elements) {
    ConfigNode* const child = child_of(*node, element, value.place);
    if (child == nullptr) return concat("there is no element ", element, ": ", element_count(node->items.size()));
    node = child;
    if (&element == &elements.back()) break;
    if (node->kind == ConfigNode::Kind::kScalar) return kBothValueAndGroup;
    if (node->kind == ConfigNode::Kind::kNull) {
      node->kind = ConfigNode::Kind::kMap;
      node->opened_by_path = true;
    }
  }
  // A list replaces what was said about its elements; a value for a group of keys is a mistake.
  if (node->kind == ConfigNode::Kind::kMap && value.kind != ConfigNode::Kind::kList) return kBothValueAndGroup;
  *node = value;
  return "";
}

}  // namespace

ConfigNode parse_overrides(const std::vector<std::string>& overrides, ConfigProblems& problems) {
  ConfigNode root;
  root.kind = ConfigNode::Kind::kMap;
  for (size_t i = 0; i < overrides.size(); ++i) {
    const ConfigPlace place{"command line", static_cast<int>(i), 0};
    const size_t equals = overrides[i].find('=');
    const std::string key = overrides[i].substr(0, equals);
    const std::vector<std::string> elements = path_elements(key);
    if (equals == std::string::npos) {
      problems.add(place, key, "an override must be key.path=value; there is no '='");
      continue;
    }
    if (std::find(elements.begin(), elements.end(), "") != elements.end()) {
      problems.add(place, overrides[i], "an override must be key.path=value; a key is empty");
      continue;
    }
    const std::string text = overrides[i].substr(equals + 1);
    const size_t problems_before = problems.size();
    ConfigNode value = parse_value(text, place, key, problems);
    if (problems.size() > problems_before) continue;
    const char first = text.empty() ? '\0' : text.front();
    if (text.empty()) {  // `data.validation=` means the empty text; YAML would say null
      value.kind = ConfigNode::Kind::kScalar;
      value.quoted = true;
    } else if (value.kind == ConfigNode::Kind::kScalar && !value.quoted) {
      // The shell has decided where the value ends: YAML would cut a folder's name at " #", and fold its line breaks.
      value.scalar = text;
    } else if (value.quoted && ((first != '"' && first != '\'') || text.size() < 2 || text.back() != first)) {
      problems.add(place, key, concat(text, " must be one value, plain or wholly in quotes"));
      continue;
    }
    value.place = place;
    if (value.kind == ConfigNode::Kind::kMap) {
      problems.add(place, key, concat(text, " is a map; an override sets one value or a whole list (put text with ': ' in quotes)"));
    } else if (const std::string clash = insert(root, elements, value); !clash.empty()) {
      problems.add(place, key, clash);
    }
  }
  return root;
}

}  // namespace pimoe
