#include "analysis/expert_report.h"

#include "analysis/heat_map.h"
#include "base/text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <iomanip>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

/// What may be concluded, and what not: the last lines of table and picture.
const std::vector<std::string> kMeaning = {
    "Measured: which classes of tokens each expert was sent, in this text, by this checkpoint. Lift 1 is the text's own mixture. The bits "
    "are what",
    "the expert of one slot tells about its token's class; p is the share of shifts of the classes along the text that reach as many. A "
    "small p",
    "says more than chance, not more than the token's id tells: routers that were never trained show classes, too (docs/experts.md).",
    "Not measured: what an expert computes with the tokens that it is sent, or why they are sent there."};

std::string percent(double share) { return fixed(100.0 * share, 1); }
double share_of_all(const ClassTable& table, int64_t expert) {
  return table.total() == 0 ? 0.0 : static_cast<double>(table.slots_of_expert(expert)) / static_cast<double>(table.total());
}
/// Of the class' entropy, what the expert tells, its bias taken off.
double told_share(const ClassTable& table) {
  const double entropy = table.class_entropy();
  return entropy > 0.0 ? table.corrected_information() / entropy : 0.0;
}

bool is_grouped(const ExpertReport& report) { return report.groups.size() > 1; }
/// A group without a name is the whole layer.
std::string group_name(const ExpertReport& report, size_t group) { return report.groups[group].name; }

/// Calls for each group, then for each of its experts by number.
template <class OnGroup, class OnExpert>
void walk(const ExpertReport& report, OnGroup on_group, OnExpert on_expert) {
  int64_t expert = 0;
  for (size_t group = 0; group < report.groups.size(); ++group) {
    on_group(group);
    for (int64_t member = 0; member < report.groups[group].count; ++member) on_expert(group, expert++);
  }
}

void print_row(std::ostringstream& out, size_t label_width, const std::string& label, const std::vector<std::string>& names,
               const std::vector<std::string>& values) {
  out << "  " << std::left << std::setw(static_cast<int>(label_width)) << label << std::right << std::setw(8) << values[0];
  for (size_t column = 0; column < names.size(); ++column) {
    out << std::setw(static_cast<int>(std::max<size_t>(names[column].size(), 5) + 2)) << values[column + 1];
  }
  out << "\n";
}

std::vector<std::string> row_values(const ClassTable& table, int64_t row) {
  std::vector<std::string> values = {percent(share_of_all(table, row))};
  const bool is_idle = table.slots_of_expert(row) == 0;
  for (int64_t column = 0; column < table.classes(); ++column) values.push_back(is_idle ? "-" : percent(table.share(row, column)));
  return values;
}

void print_shares(std::ostringstream& out, const ExpertReport& report, const ExpertLayer& layer) {
  const std::vector<std::string>& names = class_names(report.kind);
  size_t label_width = 6;
  for (const ExpertGroupConfig& group : report.groups) label_width = std::max(label_width, group.name.size());
  std::vector<std::string> heading = {"slots"};
  heading.insert(heading.end(), names.begin(), names.end());
  out << "layer " << layer.layer << ", % of slots\n";
  print_row(out, label_width, "expert", names, heading);
  std::vector<std::string> base = {"100.0"};
  for (int64_t column = 0; column < layer.experts.classes(); ++column) base.push_back(percent(layer.experts.base_rate(column)));
  print_row(out, label_width, "all", names, base);
  walk(
      report,
      [&](size_t group) {
        if (!group_name(report, group).empty()) {
          print_row(out, label_width, group_name(report, group), names, row_values(layer.groups, static_cast<int64_t>(group)));
        }
      },
      [&](size_t group, int64_t expert) {
        const char* indent = group_name(report, group).empty() ? "" : "  ";
        print_row(out, label_width, concat(indent, expert), names, row_values(layer.experts, expert));
      });
  out << "\n";
}

void print_information(std::ostringstream& out, const char* of, int64_t layer, const ClassTable& table, const ChanceLevel& chance) {
  out << std::setw(7) << layer << std::setw(9) << of << std::setw(10) << fixed(table.mutual_information(), 4) << std::setw(11)
      << fixed(table.corrected_information(), 4) << std::setw(10) << fixed(chance.shuffled, 4) << std::setw(10) << fixed(chance.shifted, 4)
      << std::setw(10) << fixed(chance.shifted_most, 4) << std::setw(8) << fixed(chance.p_value, 2) << std::setw(13)
      << percent(told_share(table)) << "\n";
}

Json table_json(const ClassTable& table, int64_t row) {
  Json shares = Json::array();
  Json lifts = Json::array();
  for (int64_t column = 0; column < table.classes(); ++column) {
    shares.push_back(table.share(row, column));
    const double lift = table.lift(row, column);
    lifts.push_back(std::isnan(lift) ? Json(nullptr) : Json(lift));
  }
  return {{"slots", table.slots_of_expert(row)}, {"slot_share", share_of_all(table, row)}, {"shares", shares}, {"lifts", lifts}};
}

Json information_json(const ClassTable& table, const ChanceLevel& chance) {
  return {{"bits", table.mutual_information()},         {"corrected_bits", table.corrected_information()},
          {"shuffled_bits", chance.shuffled},           {"shifted_bits", chance.shifted},
          {"shifted_most_bits", chance.shifted_most},   {"p_value", chance.p_value},
          {"share_of_class_entropy", told_share(table)}};
}

Json layer_json(const ExpertReport& report, const ExpertLayer& layer) {
  Json base = Json::array();
  for (int64_t column = 0; column < layer.experts.classes(); ++column) base.push_back(layer.experts.base_rate(column));
  Json document = {{"layer", layer.layer},
                   {"slots", layer.experts.total()},
                   {"base_rates", base},
                   {"class_entropy_bits", layer.experts.class_entropy()},
                   {"information", information_json(layer.experts, layer.chance)}};
  if (is_grouped(report)) document["group_information"] = information_json(layer.groups, layer.group_chance);
  document["groups"] = Json::array();
  walk(
      report,
      [&](size_t group) {
        Json entry = {{"name", group_name(report, group)}};
        entry.update(table_json(layer.groups, static_cast<int64_t>(group)));
        entry["experts"] = Json::array();
        document["groups"].push_back(std::move(entry));
      },
      [&](size_t group, int64_t expert) {
        Json entry = {{"expert", expert}};
        entry.update(table_json(layer.experts, expert));
        document["groups"][group]["experts"].push_back(std::move(entry));
      });
  return document;
}

HeatMapRow heat_row(const ClassTable& table, int64_t row, std::string label, bool begins_group) {
  HeatMapRow shown = {.label = std::move(label),
                      .note = percent(share_of_all(table, row)) + " %",
                      .begins_group = begins_group,
                      .is_sum = false,
                      .cells = {}};
  for (int64_t column = 0; column < table.classes(); ++column) {
    const double expected = table.base_rate(column) * static_cast<double>(table.slots_of_expert(row));
    shown.cells.push_back({.value = table.lift(row, column), .is_thin = expected < kThinSlots});
  }
  return shown;
}

HeatMapPanel heat_panel(const ExpertReport& report, const ExpertLayer& layer) {
  HeatMapPanel panel = {
      .title = concat("layer ", layer.layer),
      .subtitle = concat(fixed(layer.experts.corrected_information(), 3), " bits, ", percent(told_share(layer.experts)),
                         " % of H(class); by chance ", fixed(layer.chance.shifted, 3), ", p ", fixed(layer.chance.p_value, 2)),
      .column_notes = {},
      .rows = {}};
  for (int64_t column = 0; column < layer.experts.classes(); ++column) {
    panel.column_notes.push_back(percent(layer.experts.base_rate(column)) + " %");
  }
  bool is_new_group = false;
  walk(
      report,
      [&](size_t group) {
        is_new_group = group > 0;
        if (group_name(report, group).empty()) return;
        panel.rows.push_back(heat_row(layer.groups, static_cast<int64_t>(group), group_name(report, group), is_new_group));
        panel.rows.back().is_sum = true;
        is_new_group = false;
      },
      [&](size_t, int64_t expert) {
        panel.rows.push_back(heat_row(layer.experts, expert, std::to_string(expert), is_new_group));
        is_new_group = false;
      });
  return panel;
}

std::string what_was_read(const ExpertReport& report) {
  return concat(report.checkpoint, " reading ", report.data, ": ", counted(report.tokens, "token"), " of ",
                counted(report.documents, "document"), ", loss ", fixed(report.loss, 4));
}

}  // namespace

std::string to_text(const ExpertReport& report) {
  std::ostringstream out;
  out << what_was_read(report) << "\n\n";
  for (const ExpertLayer& layer : report.layers) print_shares(out, report, layer);
  out << "mutual information of class and expert, bits; H(class) is " << fixed(report.layers[0].experts.class_entropy(), 4) << "\n"
      << "  layer       of  measured  corrected  shuffled   shifted   highest       p  % of H(class)\n";
  for (const ExpertLayer& layer : report.layers) {
    print_information(out, "experts", layer.layer, layer.experts, layer.chance);
    if (is_grouped(report)) print_information(out, "groups", layer.layer, layer.groups, layer.group_chance);
  }
  out << "  corrected: the bias of a finite sample taken off (Miller-Madow). By chance: classes shuffled, and shifted along the text "
         "(mean\n"
         "  and highest of "
      << report.rounds << "); shifts keep that neighbours are alike.\n\n";
  for (const std::string& line : kMeaning) out << line << "\n";
  return out.str();
}

nlohmann::ordered_json to_json(const ExpertReport& report) {
  Json document = {
      {"checkpoint", report.checkpoint}, {"data", report.data}, {"tokens", report.tokens},        {"classed_tokens", report.classed},
      {"documents", report.documents},   {"loss", report.loss}, {"chance_rounds", report.rounds}, {"classes", class_names(report.kind)}};
  document["layers"] = Json::array();
  for (const ExpertLayer& layer : report.layers) document["layers"].push_back(layer_json(report, layer));
  return document;
}

std::string to_heat_map(const ExpertReport& report) {
  HeatMap map = {.title = "Which classes of tokens each expert receives",
                 .subtitle = what_was_read(report),
                 .row_title = "expert",
                 .note_title = "slots",
                 .columns = class_names(report.kind),
                 .panels = {},
                 .legend = "lift: the class' share of the expert's slots / its share of all slots (under the class' name)",
                 .thin_legend = concat("fewer than ", fixed(kThinSlots, 0), " slots expected: too few to say"),
                 .closing = kMeaning};
  for (const ExpertLayer& layer : report.layers) map.panels.push_back(heat_panel(report, layer));
  return to_svg(map);
}

}  // namespace pimoe
