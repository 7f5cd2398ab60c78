#include "train/alert_rule.h"

#include "base/errors.h"
#include "train/metrics.h"

#include <gtest/gtest.h>

#include <limits>

namespace pimoe {
namespace {

const AlertMetrics kKnown{.names = metric_names(), .page = "docs/metrics.md"};
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

AlertRule rule_of(const std::string& text) { return parse_alert_rule(text, kKnown); }

/// What a rule does with values that come once a second: + fires, - clears, . neither.
std::string course(const std::string& text, const std::vector<double>& values) {
  const AlertRule rule = rule_of(text);
  AlertState state;
  std::string told;
  double seconds = 100.0;
  for (const double value : values) {
    const bool changed = state.observe(rule, value, seconds);
    told += !changed ? '.' : state.is_firing() ? '+' : '-';
    seconds += 1.0;
  }
  return told;
}

std::string refusal(const std::string& text) {
  try {
    rule_of(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "taken";
}

TEST(AlertRule, ReadsEachForm) {
  const AlertRule rule = rule_of("moe/maxvio > 2 for 50 steps until < 1.5");
  EXPECT_EQ(rule.metric, "moe/maxvio");
  EXPECT_EQ(rule.fires.comparison, Comparison::kAbove);
  EXPECT_EQ(rule.fires.bound, 2.0);
  EXPECT_EQ(rule.steps, 50);
  EXPECT_EQ(rule.clears->bound, 1.5);
  EXPECT_EQ(rule_of("throughput <= 1e4 for 2 minutes").seconds, 120.0);
  EXPECT_EQ(rule_of("throughput <= 1e4").metric, "tokens_per_second");
  EXPECT_EQ(rule_of("latency >= 0.5").metric, "step_seconds");
  EXPECT_EQ(rule_of("memory > 7e10").metric, "memory_bytes");
  EXPECT_EQ(rule_of("expert_utilization < 0.9").metric, "moe/utilization");
  EXPECT_EQ(rule_of("loss is not finite").fires.comparison, Comparison::kNotFinite);
  EXPECT_EQ(rule_of("moe/maxvio_worst > 3").metric, "moe/maxvio_worst");
}

TEST(AlertRule, RefusesEverythingElseAndSaysWhy) {
  EXPECT_NE(refusal("moe/maxvi > 2").find("did you mean moe/maxvio?"), std::string::npos) << refusal("moe/maxvi > 2");
  EXPECT_NE(refusal("throughpt > 2").find("did you mean throughput?"), std::string::npos);
  EXPECT_NE(refusal("nothing_of_the_kind > 2").find("docs/metrics.md has all"), std::string::npos);
  for (const char* text : {"",
                           "loss",
                           "loss >",
                           "loss = 2",
                           "loss > two",
                           "loss > 2x",
                           "loss > nan",
                           "loss > 0x10",
                           "loss > inf",
                           "loss > 2 for",
                           "loss > 2 for 3",
                           "loss > 2 for 0 steps",
                           "loss > 2 for -1 steps",
                           "loss > 2 for 1.5 steps",
                           "loss > 2 for 3 hours",
                           "loss > 2 until",
                           "loss > 2 until > 1",
                           "loss > 2 until < 3",
                           "loss < 2 until > 1",
                           "loss > 2 and",
                           "loss is finite",
                           "loss is not finite until < 2",
                           "loss > 2 until < 1 for 3 steps",
                           "> 2",
                           "2 < loss"}) {
    EXPECT_NE(refusal(text), "taken") << text;
  }
}

TEST(AlertState, FiresOnceAndClearsOnce) {
  EXPECT_EQ(course("loss > 2", {1, 3, 3, 3, 1, 1, 3, 1}), ".+..-.+-");
  EXPECT_EQ(course("loss > 2", {2, 2}), "..") << "at the bound it is not above it";
  EXPECT_EQ(course("loss >= 2", {2, 2}), "+.");
}

TEST(AlertState, HoldsOutForItsStepsBothWays) {
  EXPECT_EQ(course("loss > 2 for 3 steps", {3, 3, 1, 3, 3, 3, 3, 1, 1, 3, 1, 1, 1}), ".....+......-");
  EXPECT_EQ(course("loss > 2 for 2 seconds", {3, 3, 3, 1, 1, 1}), "..+..-") << "two seconds after the first";
}

TEST(AlertState, StaysBetweenItsTwoBounds) { EXPECT_EQ(course("loss > 2 until < 1", {3, 1.5, 2.5, 1.0, 0.9, 1.5}), "+...-."); }

TEST(AlertState, TakesNaNForNoSignOfAnything) {
  EXPECT_EQ(course("loss > 2", {3, kNan, kNan, 1}), "+..-") << "that it is no number does not end what it had begun";
  EXPECT_EQ(course("loss > 2", {kNan, kNan, 3, 1}), "..+-");
  EXPECT_EQ(course("loss > 2 for 2 steps", {3, kNan, 3, 1, kNan, 1}), "..+..-") << "as a step without the value";
  EXPECT_EQ(course("loss > 2 until < 1", {3, kNan, 0.5}), "+.-");
  EXPECT_EQ(course("loss is not finite", {1, kNan, kNan, 1}), ".+.-");
  EXPECT_EQ(course("loss is not finite for 2 steps", {kNan, 1, kNan, std::numeric_limits<double>::infinity()}), "...+");
}

}  // namespace
}  // namespace pimoe
