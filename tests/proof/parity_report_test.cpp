#include "proof/parity_report.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <limits>

namespace pimoe {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

Facts facts(double loss, double gradient) {
  return {{"loss", "", at::tensor({loss}, at::kDouble), {}}, {"gradient", "head.weight", at::tensor({1.0, gradient}, at::kDouble), {}}};
}

TEST(ParityReport, TheFirstDisagreementInTheOrderOfAStepIsNamed) {
  ParityReport report(1e-6);
  report.compare(kLayoutOneRank, facts(2.0, 0.5), facts(2.0, 0.6));
  report.compare(kLayoutLoop, facts(2.0, 0.5), facts(2.1, 0.6));
  EXPECT_FALSE(report.agrees());
  EXPECT_EQ(report.first_disagreement(), "loss: layout ~ loop: apart by 4.8e-02, allowed 1.0e-06");
}

TEST(ParityReport, DifferencesWithinTheToleranceAgree) {
  ParityReport report(1e-2);
  report.compare(kLayoutOneRank, facts(2.0, 0.5), facts(2.001, 0.501));
  EXPECT_TRUE(report.agrees());
  EXPECT_TRUE(report.notes().empty());
}

TEST(ParityReport, SaysWhereNumbersStopBeingFiniteAndInWhichRun) {
  ParityReport report(1e-6);
  report.note("first");
  report.compare(kLayoutOneRank, facts(2.0, 0.5), facts(2.0, 0.5));
  report.compare(kLayoutLoop, facts(2.0, 0.5), facts(2.0, kInfinite));
  EXPECT_FALSE(report.agrees());
  ASSERT_EQ(report.notes().size(), 2u);
  EXPECT_EQ(
      report.notes()[1],
      "numbers leave the range of their type, first in gradient of head.weight of the loop: what follows from them cannot be compared");
  report.compare(kOneRankLoop, facts(kInfinite, 0.5), facts(2.0, kInfinite));
  EXPECT_NE(report.notes()[1].find("first in loss of one rank"), std::string::npos) << report.notes()[1];
  EXPECT_EQ(report.json().at("notes").size(), 2u);
  EXPECT_NE(report.table().find("note: numbers leave the range"), std::string::npos);
}

}  // namespace
}  // namespace pimoe
