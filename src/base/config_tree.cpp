#include "base/config_tree.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>

#include "base/config_fields.h"
#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"

namespace pimoe {
namespace {

constexpr size_t kMostProblemLines = 100;

}  // namespace

std::string ConfigPlace::text() const { return column == 0 ? source : concat(source, ":", line, ":", column); }

const ConfigNode::Entry* ConfigNode::find(const std::string& key) const {
  const auto found = std::find_if(entries.begin(), entries.end(), [&key](const Entry& entry) { return entry.key == key; });
  return found == entries.end() ? nullptr : &*found;
}

std::string config_path(const std::string& parent, const std::string& key) { return parent.empty() ? key : parent + "." + key; }

std::string element_path(const std::string& list, size_t index) { return concat(list, "[", index, "]"); }

std::optional<size_t> element_index(const std::string& text, size_t size) {
  size_t index = 0;
  std::from_chars(text.data(), text.data() + text.size(), index);
  if (std::to_string(index) != text || index >= size) return std::nullopt;
  return index;
}

std::string element_count(size_t size) {
  return concat("the list has ", size, size == 1 ? " element" : " elements", size == 0 ? "" : ", counted from 0");
}

void ConfigProblems::add(const ConfigPlace& place, const std::string& key, const std::string& message) {
  problems_.push_back({place, printable(concat(place.text(), ": ", key, key.empty() ? "" : ": ", message))});
}

void ConfigProblems::refuse() const {
  if (problems_.empty()) return;
  std::vector<Problem> sorted = problems_;
  std::map<std::string, size_t> order_of_source;
  for (const Problem& problem : problems_) order_of_source.emplace(problem.place.source, order_of_source.size());
  std::stable_sort(sorted.begin(), sorted.end(), [&order_of_source](const Problem& a, const Problem& b) {
    const auto order = [&](const ConfigPlace& place) { return std::tuple(order_of_source.at(place.source), place.line, place.column); };
    return order(a.place) < order(b.place);
  });
  std::vector<std::string> lines;
  for (size_t i = 0; i < std::min(sorted.size(), kMostProblemLines); ++i) lines.push_back(sorted[i].line);
  if (sorted.size() > lines.size()) lines.push_back(concat("and ", sorted.size() - lines.size(), " more"));
  throw ConfigError(join(lines, "\n"));
}

void Violations::add(const std::string& key, const std::string& rule) { lines_.emplace_back(key, printable(rule)); }

void ConfigOrigins::set(const std::string& key, const std::string& origin) { origins_[key] = origin; }

void ConfigOrigins::forget_elements(const std::string& list) {
  const std::string prefix = list + "[";
  const auto begin = origins_.lower_bound(prefix);
  auto end = begin;
  while (end != origins_.end() && end->first.starts_with(prefix)) ++end;
  origins_.erase(begin, end);
}

std::string ConfigOrigins::of(const std::string& key) const {
  const auto found = origins_.find(key);
  return found == origins_.end() ? "" : found->second;
}

void refuse(const Violations& violations, const ConfigOrigins& origins) {
  if (violations.empty()) return;
  std::vector<std::string> lines;
  for (const auto& [key, rule] : violations.lines()) {
    const std::string origin = origins.of(key);
    // "model.moe.experts (8) must be ..." reads on from the key; any other sentence begins anew.
    lines.push_back(concat(printable(origin), origin.empty() ? "" : ": ", key, rule.starts_with("(") ? " " : ": ", rule));
  }
  throw ConfigError(join(lines, "\n"));
}

}  // namespace pimoe
