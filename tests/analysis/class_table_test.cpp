#include "analysis/class_table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pimoe {
namespace {

/// Rows are experts, columns classes.
ClassTable table_of(const std::vector<std::vector<int64_t>>& rows) {
  ClassTable table(static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size()));
  for (size_t expert = 0; expert < rows.size(); ++expert) {
    for (size_t column = 0; column < rows[expert].size(); ++column) {
      table.add(static_cast<int64_t>(expert), static_cast<int64_t>(column), rows[expert][column]);
    }
  }
  return table;
}

TEST(ClassTable, SharesBaseRatesAndLifts) {
  const ClassTable table = table_of({{6, 2}, {2, 6}, {0, 0}, {4, 0}});
  EXPECT_EQ(table.total(), 20);
  EXPECT_EQ(table.slots_of_expert(0), 8);
  EXPECT_EQ(table.slots_of_class(0), 12);
  EXPECT_DOUBLE_EQ(table.base_rate(0), 0.6);
  EXPECT_DOUBLE_EQ(table.share(0, 0), 0.75);
  EXPECT_DOUBLE_EQ(table.lift(0, 0), 0.75 / 0.6);
  EXPECT_DOUBLE_EQ(table.lift(3, 1), 0.0);
  EXPECT_DOUBLE_EQ(table.share(2, 0), 0.0);
  EXPECT_TRUE(std::isnan(table.lift(2, 0))) << "nothing is known of an expert without slots";
  EXPECT_TRUE(std::isnan(table_of({{3, 0}}).lift(0, 1))) << "nor of a class that did not occur";
}

TEST(ClassTable, IndependentClassesTellNothing) {
  // Every cell is the product of its margins: 3 : 1 over experts, 4 : 2 : 1 over classes.
  EXPECT_NEAR(table_of({{12, 6, 3}, {4, 2, 1}}).mutual_information(), 0.0, 1e-15);
}

TEST(ClassTable, AnExpertForEachClassTellsAllOfIt) {
  const ClassTable table = table_of({{0, 4, 0}, {2, 0, 0}, {0, 0, 2}});
  EXPECT_DOUBLE_EQ(table.class_entropy(), 1.5);  // 1/2 log2 2 + 2 * 1/4 log2 4
  EXPECT_DOUBLE_EQ(table.mutual_information(), 1.5);
  // Two experts for a class tell no more.
  EXPECT_DOUBLE_EQ(table_of({{0, 3, 0}, {0, 1, 0}, {2, 0, 0}, {0, 0, 2}}).mutual_information(), 1.5);
}

TEST(ClassTable, MutualInformationByHand) {
  // p = 3/8 1/8 | 1/8 3/8, margins 1/2: 2 (3/8 log2(3/2)) + 2 (1/8 log2(1/2)) = 3/4 log2 3 - 1.
  EXPECT_NEAR(table_of({{3, 1}, {1, 3}}).mutual_information(), 0.75 * std::log2(3.0) - 1.0, 1e-15);
}

TEST(ClassTable, TheCorrectionCountsOccupiedCells) {
  // 4 cells - 2 rows - 2 columns + 1 = 1, over 2 * 8 ln 2; an empty row, and an empty column, change nothing.
  const double expected = 0.75 * std::log2(3.0) - 1.0 - 1.0 / (16.0 * std::log(2.0));
  EXPECT_NEAR(table_of({{3, 1}, {1, 3}}).corrected_information(), expected, 1e-15);
  EXPECT_NEAR(table_of({{3, 1, 0}, {0, 0, 0}, {1, 3, 0}}).corrected_information(), expected, 1e-15);
  // A bijection has as many cells as rows and columns: nothing left to chance but 1 - n.
  EXPECT_NEAR(table_of({{4, 0}, {0, 4}}).corrected_information(), 1.0 + 1.0 / (16.0 * std::log(2.0)), 1e-15);
}

TEST(ClassTable, OfNoSlotsIsZero) {
  const ClassTable empty(3, 2);
  EXPECT_EQ(empty.mutual_information(), 0.0);
  EXPECT_EQ(empty.corrected_information(), 0.0);
  EXPECT_EQ(empty.class_entropy(), 0.0);
  EXPECT_EQ(empty.base_rate(0), 0.0);
}

TEST(ClassTable, GroupsAddTheirExperts) {
  const ClassTable groups = table_of({{1, 2}, {3, 4}, {5, 6}}).merged({1, 0, 1}, 2);
  EXPECT_EQ(groups.slots(0, 0), 3);
  EXPECT_EQ(groups.slots(1, 0), 6);
  EXPECT_EQ(groups.slots(1, 1), 8);
}

TEST(ClassedRouting, CountsSlotsAndLeavesOutWhatHasNoClassOrNoExpert) {
  const ClassedRouting routing = {
      .experts = 3, .choices = 2, .classes = 2, .class_of = {0, 1, -1, 1}, .expert_of = {0, 2, 2, 1, 0, 1, 2, -1}};
  const ClassTable table = routing.table();
  EXPECT_EQ(table.total(), 5);
  EXPECT_EQ(table.slots(0, 0), 1);
  EXPECT_EQ(table.slots(2, 0), 1);
  EXPECT_EQ(table.slots(2, 1), 2);
  EXPECT_EQ(table.slots(1, 1), 1);
}

/// Tokens in runs of 50 of one class each, classes in an order without a period; expert by expert_of(token, class).
template <class Expert>
ClassedRouting text_in_runs(int64_t runs, Expert expert_of) {
  ClassedRouting routing = {.experts = 4, .choices = 1, .classes = 3, .class_of = {}, .expert_of = {}};
  uint64_t state = 1;
  for (int64_t token = 0; token < 50 * runs; ++token) {
    if (token % 50 == 0) state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    const auto token_class = static_cast<int8_t>((state >> 33) % 3);
    routing.class_of.push_back(token_class);
    routing.expert_of.push_back(expert_of(token, token_class));
  }
  return routing;
}

TEST(ChanceLevel, ShufflesShowTheBiasOfAFiniteSample) {
  // 3 * 2 / (2 N ln 2) bits on average where slots are independent.
  const ClassedRouting routing = text_in_runs(40, [](int64_t token, int8_t) { return static_cast<int32_t>(token % 4); });
  const ChanceLevel chance = chance_level(routing, {}, 200, 100, 7);
  const double expected = 6.0 / (2.0 * 2000.0 * std::log(2.0));
  EXPECT_NEAR(chance.shuffled, expected, 0.15 * expected);
}

TEST(ChanceLevel, AnExpertThatFollowsClassesStandsOut) {
  const ClassedRouting routing = text_in_runs(200, [](int64_t token, int8_t own) { return token % 5 == 0 ? 3 : int32_t{own}; });
  const ChanceLevel chance = chance_level(routing, {}, 99, 100, 7);
  EXPECT_GT(routing.table().mutual_information(), 5 * chance.shifted_most);
  EXPECT_DOUBLE_EQ(chance.p_value, 0.01);
}

TEST(ChanceLevel, ShiftsKnowThatRunsAloneLookLikeInformation) {
  // Experts in runs of 70 that know nothing of classes: shuffled classes make them look significant, shifted ones do not.
  const ClassedRouting routing = text_in_runs(60, [](int64_t token, int8_t) { return static_cast<int32_t>((token / 70) * 7919 % 4); });
  const double measured = routing.table().mutual_information();
  const ChanceLevel chance = chance_level(routing, {}, 99, 100, 7);
  EXPECT_GT(measured, 5 * chance.shuffled);
  EXPECT_GT(chance.p_value, 0.05);
}

TEST(ChanceLevel, JudgesGroupsWhereTheyAreGiven) {
  // Experts 0, 1 and 2, 3 follow the class; their groups {0, 2} and {1, 3} do not.
  const ClassedRouting routing =
      text_in_runs(200, [](int64_t token, int8_t own) { return (own == 0 ? 0 : 2) + static_cast<int32_t>(token % 2); });
  EXPECT_DOUBLE_EQ(chance_level(routing, {}, 99, 100, 7).p_value, 0.01);
  EXPECT_GT(chance_level(routing, {0, 1, 0, 1}, 99, 100, 7).p_value, 0.05);
}

TEST(ChanceLevel, OfTooLittleTextSaysNothing) {
  const ClassedRouting routing = {.experts = 2, .choices = 1, .classes = 2, .class_of = {0, -1}, .expert_of = {0, 1}};
  EXPECT_EQ(chance_level(routing, {}, 99, 100, 7).p_value, 1.0);
  const ClassedRouting two = {.experts = 2, .choices = 1, .classes = 2, .class_of = {0, 1}, .expert_of = {0, 1}};
  EXPECT_GT(chance_level(two, {}, 9, 100, 7).p_value, 0.5);
}

}  // namespace
}  // namespace pimoe
