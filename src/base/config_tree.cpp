#include "base/config_tree.h"

#include <algorithm>
#include <tuple>

#include "base/config_fields.h"
#include "base/errors.h"
#include "base/text.h"

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

void ConfigProblems::add(const ConfigPlace& place, const std::string& key, const std::string& message) {
  problems_.push_back({place, concat(place.text(), ": ", key, key.empty() ? "" : ": ", message)});
}

void ConfigProblems::refuse() const {
  if (problems_.empty()) return;
  std::vector<Problem> sorted = problems_;
  const std::string& first_source = problems_.front().place.source;
  std::stable_sort(sorted.begin(), sorted.end(), [&first_source](const Problem& a, const Problem& b) {
    const auto order = [&](const ConfigPlace& place) { return std::tuple(place.source != first_source, place.line, place.column); };
    return order(a.place) < order(b.place);
  });
  std::vector<std::string> lines;
  for (size_t i = 0; i < std::min(sorted.size(), kMostProblemLines); ++i) lines.push_back(sorted[i].line);
  if (sorted.size() > lines.size()) lines.push_back(concat("and ", sorted.size() - lines.size(), " more"));
  throw ConfigError(join(lines, "\n"));
}

void Violations::add(const std::string& key, const std::string& rule) { lines_.emplace_back(key, rule); }

void ConfigOrigins::set(const std::string& key, const std::string& origin) {
  for (auto& [known, place] : origins_) {
    if (known == key) {
      place = origin;
      return;
    }
  }
  origins_.emplace_back(key, origin);
}

std::string ConfigOrigins::of(const std::string& key) const {
  for (const auto& [known, place] : origins_) {
    if (known == key) return place;
  }
  return "";
}

void refuse(const Violations& violations, const ConfigOrigins& origins) {
  if (violations.empty()) return;
  std::vector<std::string> lines;
  for (const auto& [key, rule] : violations.lines()) {
    const std::string origin = origins.of(key);
    // "model.moe.experts (8) must be ..." reads on from the key; any other sentence begins anew.
    lines.push_back(concat(origin, origin.empty() ? "" : ": ", key, rule.starts_with("(") ? " " : ": ", rule));
  }
  throw ConfigError(join(lines, "\n"));
}

}  // namespace pimoe
