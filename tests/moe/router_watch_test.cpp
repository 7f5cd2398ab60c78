#include "moe/router_watch.h"

#include "base/errors.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

using Load = std::vector<int64_t>;

constexpr int64_t kExperts = 8;

/// A look is 10 steps, as by default. @param first  the model's layer that is the first of two with experts
RouterWatch watch(int64_t first = 0) { return {10, 0.5, {.count = 2, .experts = kExperts, .first = first}}; }

/// Slots of a layer of 8 experts with 80 % of 8000 slots on expert 2, the rest even.
Load collapsed() {
  Load load(kExperts, 8000 / 5 / 7);
  load[2] = 6400;
  return load;
}
const Load kEven(kExperts, 1000);

// With K of E above the root, H / ln E is never below a half.
TEST(RouterWatch, TellsACollapseWhateverTheChoices) {
  for (const int64_t choices : {1, 2, 3, 7, 8}) {
    RouterWatch routers(10, 0.5, {.count = 1, .experts = kExperts, .first = 0, .choices = choices});
    Load load(kExperts, 0);
    for (int64_t expert = 0; expert < choices; ++expert) load[static_cast<size_t>(expert)] = 1000;
    std::vector<RouterAlarm> alarms;
    for (int step = 1; step <= 10; ++step) alarms = routers.observe(step, {load});
    const bool told = !alarms.empty() && alarms[0].text.find("the router collapses") != std::string::npos;
    EXPECT_EQ(told, choices < kExperts) << choices;
  }
}

TEST(RouterWatch, TellsACollapseOnceAndAgainOnlyAfterItWasOver) {
  RouterWatch routers = watch();
  std::vector<int> told;
  for (int step = 1; step <= 100; ++step) {
    const bool collapses = step <= 40 || step > 70;
    for (const RouterAlarm& alarm : routers.observe(step, {kEven, collapses ? collapsed() : kEven})) {
      told.push_back(step);
      EXPECT_EQ(alarm.layer, 1);
      EXPECT_EQ(alarm.experts, std::vector<int64_t>{2});
    }
  }
  EXPECT_EQ(told, (std::vector<int>{10, 80}));
}

TEST(RouterWatch, NamesExpertsThatGotNothingForAWholeLook) {
  RouterWatch routers = watch();
  std::vector<RouterAlarm> alarms;
  for (int step = 1; step <= 40; ++step) {
    Load load = kEven;
    load[1] = load[6] = 0;
    load[3] = step % 10 == 0 ? 1 : 0;  // rarely is not never
    for (const RouterAlarm& alarm : routers.observe(step, {load, kEven})) alarms.push_back(alarm);
  }
  ASSERT_EQ(alarms.size(), 1u);
  EXPECT_EQ(alarms[0].experts, (std::vector<int64_t>{1, 6}));
  EXPECT_EQ(alarms[0].text, "step 10: layer 0: experts 1, 6 had no slot in 10 steps");
}

TEST(RouterWatch, TellsOfResultsThatAreNotFiniteOnceUntilAStepHasNone) {
  RouterWatch routers = watch();
  std::vector<int> told;
  for (int step = 1; step <= 9; ++step) {
    const double slots = step == 5 || step == 6 ? 0.0 : 3.0 + step;
    for (const RouterAlarm& alarm : routers.observe_nonfinite(step, {0.0, slots})) {
      told.push_back(step);
      EXPECT_EQ(alarm.layer, 1);
    }
  }
  EXPECT_EQ(told, (std::vector<int>{1, 7}));
}

TEST(RouterWatch, NamesTheModelsLayer) {
  RouterWatch routers = watch(/*first=*/2);
  std::vector<std::string> texts;
  for (int step = 1; step <= 10; ++step) {
    for (const RouterAlarm& alarm : routers.observe(step, {kEven, collapsed()})) texts.push_back(alarm.text);
  }
  for (const RouterAlarm& alarm : routers.observe_nonfinite(10, {1.0, 0.0})) texts.push_back(alarm.text);
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0].find("step 10: layer 3: the router collapses"), 0u) << texts[0];
  EXPECT_EQ(texts[1].find("step 10: layer 2: the experts' results of 1 slots are not finite"), 0u) << texts[1];
}

// What lasts is no news to a run that goes on, and a look that was cut goes on where it was.
TEST(RouterWatch, RestoredStateGoesOnWithTheSameAlarms) {
  for (const int cut : {1, 4, 10, 15, 21}) {
    RouterWatch whole = watch();
    RouterWatch resumed = watch();
    for (int step = 1; step <= 30; ++step) {
      if (step == cut) {
        EXPECT_TRUE(resumed.restore(whole.state()));
      }
      Load missing = kEven;
      missing[5] = 0;
      const std::vector<Load> load = {collapsed(), step < 20 ? missing : kEven};
      const auto seen = whole.observe(step, load);
      const auto nonfinite = whole.observe_nonfinite(step, {2.0, 0.0});
      if (step < cut) continue;
      EXPECT_EQ(resumed.observe(step, load).size(), seen.size()) << "step " << step << ", cut " << cut;
      EXPECT_EQ(resumed.observe_nonfinite(step, {2.0, 0.0}).size(), nonfinite.size()) << "step " << step << ", cut " << cut;
      EXPECT_EQ(resumed.state(), whole.state());
    }
  }
}

TEST(RouterWatch, StateIsAllOrNothing) {
  RouterWatch routers = watch();
  for (int step = 1; step <= 5; ++step) routers.observe(step, {collapsed(), kEven});
  RouterWatch fresh = watch();
  EXPECT_FALSE(fresh.restore({{"loss_scale", 1.0}, {"adaptive.missed", 2.0}}));
  auto part = routers.state();
  part.erase("router_watch.layers.1.entropy");
  EXPECT_THROW(fresh.restore(part), CheckpointError);
  EXPECT_EQ(fresh.state(), watch().state());
}

}  // namespace
}  // namespace pimoe
