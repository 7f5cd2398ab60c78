#include "analysis/expert_report.h"

#include "analysis/heat_map.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <limits>

namespace pimoe {
namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// Two groups of prose, "near" of experts 0 and 1, "far" of expert 2, which receives nothing: words 60 : 20, digits 0 : 20, rest 0.
ExpertReport two_groups() {
  ExpertReport report;
  report.checkpoint = "runs/a&b";
  report.data = "corpus";
  report.kind = TextKind::kProse;
  report.groups = {{.name = "near", .count = 2}, {.name = "far", .count = 1}};
  report.tokens = report.classed = 100;
  report.documents = 1;
  report.rounds = 9;
  ClassTable experts(3, 4);
  experts.add(0, kWord, 60);
  experts.add(1, kWord, 20);
  experts.add(1, kDigit, 20);
  report.layers.push_back({.layer = 1, .experts = experts, .chance = {}, .groups = experts.merged({0, 0, 1}, 2), .group_chance = {}});
  return report;
}

TEST(ExpertReport, PrintsGroupsExpertsAndSharesInPercent) {
  const std::string text = to_text(two_groups());
  EXPECT_NE(text.find("  near     100.0   80.0   20.0"), std::string::npos) << text;
  EXPECT_NE(text.find("    0       60.0  100.0    0.0"), std::string::npos) << text;
  EXPECT_NE(text.find("    1       40.0   50.0   50.0"), std::string::npos) << text;
  EXPECT_NE(text.find("  far        0.0      -      -"), std::string::npos) << text;
  EXPECT_NE(text.find("Not measured"), std::string::npos) << text;
}

TEST(ExpertReport, JsonHasNoLiftWhereThereAreNoSlots) {
  const auto layer = to_json(two_groups()).at("layers")[0];
  EXPECT_EQ(layer.at("groups")[0].at("name"), "near");
  EXPECT_DOUBLE_EQ(layer.at("groups")[0].at("experts")[1].at("lifts")[kDigit], 2.5);
  EXPECT_TRUE(layer.at("groups")[1].at("experts")[0].at("lifts")[kWord].is_null());
  EXPECT_EQ(layer.count("group_information"), 1u);
}

TEST(ExpertReport, HeatMapHasARowForEachGroupAndExpert) {
  const std::string svg = to_heat_map(two_groups());
  EXPECT_EQ(count(svg, ">near<") + count(svg, ">far<"), 2u);
  EXPECT_EQ(count(svg, "runs/a&amp;b"), 1u) << "text is escaped";
  // Digits of experts 0 and 1: 12 and 8 of 20 expected slots are too few for a colour; without slots there is no number either.
  EXPECT_EQ(count(svg, ">2.5</text>"), 1u);
  EXPECT_EQ(count(svg, "class=\"m g\">2.5<"), 1u);
}

TEST(HeatMap, ColoursAreSymmetricAroundOneAndEndAtFour) {
  HeatMap map = {.title = "t",
                 .subtitle = "",
                 .row_title = "",
                 .note_title = "",
                 .columns = {"a", "b", "c", "d"},
                 .panels = {},
                 .legend = "",
                 .thin_legend = "",
                 .closing = {}};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  map.panels.push_back({.title = "p", .subtitle = "", .column_notes = {"", "", "", ""}, .rows = {}});
  map.panels[0].rows.push_back({.label = "0", .note = "", .begins_group = false, .is_sum = false, .cells = {{1.0}, {4.0}, {0.0}, {nan}}});
  map.panels[0].rows.push_back(
      {.label = "1", .note = "", .begins_group = false, .is_sum = false, .cells = {{40.0}, {0.25}, {2.0, true}, {0.5}}});
  const std::string svg = to_svg(map);
  EXPECT_EQ(count(svg, "fill=\"#fafafa\""), 1u);
  EXPECT_EQ(count(svg, "fill=\"#b2182b\""), 2u);
  EXPECT_EQ(count(svg, "fill=\"#2166ac\""), 2u);
  EXPECT_EQ(count(svg, "fill=\"#92c5de\""), 1u);
  EXPECT_EQ(count(svg, "fill=\"#e9e9e9\""), 2u);
  EXPECT_EQ(count(svg, "<script"), 0u);
}

}  // namespace
}  // namespace pimoe
