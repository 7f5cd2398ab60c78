#include "monitor/report_page.h"

#include "base/text.h"
#include "monitor/run_summary.h"
#include "train/run_events.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <set>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kNoSlot = 0;        ///< a cell of the maps of loads: no slot at all
constexpr int kNoRecord = 255;    ///< nothing was recorded
constexpr double kOctaves = 4.0;  ///< 1 and 254 are this many halvings and doublings from the mean

/// Six digits are more than a screen shows. What is not finite is null.
Json short_number(double value) {
  if (!std::isfinite(value)) return {};
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return Json::parse(text.data());
}

/// [step, value, step, value, ...]
Json flat(const std::vector<Curve::Point>& points) {
  Json list = Json::array();
  for (const Curve::Point& point : points) {
    list.push_back(point.step);
    list.push_back(short_number(point.value));
  }
  return list;
}

std::string base64(const std::string& bytes) {
  constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    uint32_t three = 0;
    for (size_t index = 0; index < 3; ++index)
      three = (three << 8) | (at + index < bytes.size() ? static_cast<uint8_t>(bytes[at + index]) : 0);
    for (size_t digit = 0; digit < 4; ++digit) text += at + digit > bytes.size() ? '=' : kDigits[(three >> (18 - 6 * digit)) & 63];
  }
  return text;
}

/// A cell's slots against the mean of its layer and stretch, as a byte: 0 none, 1 to 254 logarithmic from 1/16 to 16 times the mean.
char load_byte(double slots, double mean) {
  if (mean <= 0.0) return static_cast<char>(kNoRecord);
  if (slots <= 0.0) return static_cast<char>(kNoSlot);
  const double octaves = std::clamp(std::log2(slots / mean), -kOctaves, kOctaves);
  return static_cast<char>(1 + static_cast<int>(std::lround((octaves + kOctaves) / (2 * kOctaves) * 253)));
}

/// A layer's experts over stretches of steps: rows are experts.
Json loads_of(const RowGrid& grid) {
  std::string bytes(grid.rows() * grid.columns(), static_cast<char>(kNoRecord));
  for (size_t column = 0; column < grid.columns(); ++column) {
    double mean = 0.0;
    for (size_t row = 0; row < grid.rows(); ++row) mean += grid.sum(column, row) / static_cast<double>(grid.rows());
    for (size_t row = 0; row < grid.rows(); ++row) bytes[row * grid.columns() + column] = load_byte(grid.sum(column, row), mean);
  }
  return {{"experts", grid.rows()},
          {"columns", grid.columns()},
          {"first", grid.first()},
          {"stretch", grid.stretch()},
          {"cells", base64(bytes)}};
}

Json layer_map(const RowGrid& grid) {
  Json rows = Json::array();
  for (size_t row = 0; row < grid.rows(); ++row) {
    Json cells = Json::array();
    for (size_t column = 0; column < grid.columns(); ++column) cells.push_back(short_number(grid.most(column, row)));
    rows.push_back(std::move(cells));
  }
  return {{"columns", grid.columns()}, {"first", grid.first()}, {"stretch", grid.stretch()}, {"rows", rows}};
}

Json events_of(const RunRecord& run) {
  Json list = Json::array();
  for (const RunEvent& event : run.events) {
    if (event.kind == run_event::kSave) continue;  // saved or save_failed follows, and says more
    list.push_back({event.step, event.last_step, event.kind, event.text, static_cast<int64_t>(event.time)});
  }
  return list;
}

Json run_json(const RunRecord& run) {
  Json curves = Json::object();
  Json means = Json::object();
  int64_t stretch = 1;
  for (const char* key : kCurveKeys) {
    const auto curve = run.curves.find(key);
    if (curve == run.curves.end()) continue;
    curves[key] = flat(curve->second.points());
    if (curve->second.stretch() > 2) means[key] = flat(curve->second.means());
    stretch = std::max(stretch, curve->second.stretch());
  }
  Json maps = Json::object();
  for (const char* key : kLayerMapKeys) {
    if (const auto map = run.layer_maps.find(key); map != run.layer_maps.end()) maps[key] = layer_map(map->second);
  }
  Json loads = Json::array();
  for (const RowGrid& grid : run.loads) loads.push_back(loads_of(grid));
  Json lines = Json::array();
  for (const auto& [title, text] : run_summary(run)) lines.push_back({title, text});
  Json config = Json::array();
  if (run.config) {
    for (const auto& [key, value] : *run.config) config.push_back({key, value});
  }
  return {{"name", run.name},
          {"folder", run.folder.string()},
          {"state", state_word(run.state)},
          {"notes", run.notes},
          {"records", run.records},
          {"stretch", stretch},
          {"last_step", run.last.is_object() ? run.last["step"].get<int64_t>() : int64_t{0}},
          {"summary", lines},
          {"curves", curves},
          {"means", means},
          {"layers", run.layers},
          {"maps", maps},
          {"loads", loads},
          {"events", events_of(run)},
          {"config", config}};
}

/// [key, value in each run (null: it has none)] of the keys whose values differ. A run whose configuration could not be read differs in nothing.
Json differences_of(const std::vector<RunRecord>& runs) {
  std::vector<std::string> keys;
  std::map<std::string, std::vector<Json>> values;
  for (size_t index = 0; index < runs.size(); ++index) {
    if (!runs[index].config) continue;
    for (const auto& [key, value] : *runs[index].config) {
      const auto [entry, is_new] = values.try_emplace(key, runs.size(), Json());
      if (is_new) keys.push_back(key);
      entry->second[index] = value;
    }
  }
  Json list = Json::array();
  for (const std::string& key : keys) {
    const std::vector<Json>& of_key = values[key];
    std::set<Json> different;
    for (size_t index = 0; index < runs.size(); ++index) {
      if (runs[index].config) different.insert(of_key[index]);
    }
    if (different.size() == 1) continue;
    Json line = Json::array({key});
    for (const Json& value : of_key) line.push_back(value);
    list.push_back(line);
  }
  return list;
}

/// Runs of one name are told apart by as much of their path as it takes: all of it.
void name_apart(std::vector<RunRecord>& runs) {
  std::map<std::string, int> uses;
  for (const RunRecord& run : runs) ++uses[run.name];
  for (RunRecord& run : runs) {
    if (uses[run.name] > 1) run.name = run.folder.string();
  }
}

std::string replaced(std::string text, const std::string& mark, const std::string& by) {
  const size_t at = text.find(mark);
  if (at != std::string::npos) text.replace(at, mark.size(), by);
  return text;
}

/// Inside a script element only "<" could end it.
std::string as_script_data(const Json& data) {
  std::string text;
  for (const char letter : data.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace)) {
    if (letter == '<') {
      text += "\\u003c";
    } else {
      text += letter;
    }
  }
  return text;
}

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char letter : text) {
    switch (letter) {
      case '<': safe += "&lt;"; break;
      case '>': safe += "&gt;"; break;
      case '&': safe += "&amp;"; break;
      case '"': safe += "&quot;"; break;
      default: safe += letter;
    }
  }
  return safe;
}

}  // namespace

std::string to_page(const std::vector<RunRecord>& given, double time) {
  std::vector<RunRecord> runs = given;
  name_apart(runs);
  Json list = Json::array();
  std::vector<std::string> names;
  for (const RunRecord& run : runs) {
    list.push_back(run_json(run));
    names.push_back(run.name);
  }
  const Json data = {{"time", static_cast<int64_t>(time)}, {"runs", list}, {"differences", differences_of(runs)}};
  const PageParts parts = page_parts();
  std::string page = replaced(parts.html, "@STYLE@", parts.style);
  page = replaced(page, "@CHARTS@", parts.charts);
  page = replaced(page, "@SCRIPT@", parts.script);
  page = replaced(page, "@DATA@", as_script_data(data));
  return replaced(page, "@TITLE@", escaped(join(names, ", ")));  // the first one: what comes from files may have marks in it
}

}  // namespace pimoe
