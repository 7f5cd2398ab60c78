#include "moe/adaptive_control.h"

#include "base/errors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

namespace pimoe {
namespace {

using Load = std::vector<int64_t>;

constexpr int64_t kExperts = 8;
constexpr int kSteps = 150;

AdaptiveConfig enabled() {
  AdaptiveConfig config;
  config.enabled = true;
  return config;
}

AdaptiveControl controller(const AdaptiveConfig& config = enabled(), int64_t layers = 1) {
  return {config, {.bias_rate = {0}, .switch_loss = 1e-2, .temperature = 1.0}, {.count = layers, .experts = kExperts}};
}

/// One layer's router as the loss-free bias meets it: fixed preferences, noise of each token, softmax, the K largest of p + b.
class SimulatedRouter {
 public:
  /// @param skew  added to the logit of one expert
  SimulatedRouter(double skew, int choices, unsigned seed) : random_(seed), choices_(choices), preference_(kExperts), bias_(kExperts) {
    for (double& logit : preference_) logit = 0.3 * normal_(random_);
    preference_[seed % kExperts] += skew;
  }

  Load step() {
    Load load(kExperts);
    std::vector<double> score(kExperts);
    std::vector<size_t> order(kExperts);
    for (int token = 0; token < 2048; ++token) {
      double sum = 0;
      for (size_t expert = 0; expert < kExperts; ++expert) sum += score[expert] = std::exp(preference_[expert] + normal_(random_));
      for (size_t expert = 0; expert < kExperts; ++expert) score[expert] = score[expert] / sum + bias_[expert];
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return score[a] > score[b]; });
      for (int choice = 0; choice < choices_; ++choice) ++load[order[static_cast<size_t>(choice)]];
    }
    return load;
  }

  void update_bias(const Load& load, double rate, BiasLaw law) {
    const auto mean = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0})) / kExperts;
    double sum = 0;
    for (size_t expert = 0; expert < kExperts; ++expert) {
      const double missing = (mean - static_cast<double>(load[expert])) / mean;
      const double sign = missing > 0 ? 1 : missing < 0 ? -1 : 0;
      sum += bias_[expert] += rate * (law == BiasLaw::kSign ? sign : std::max(-1.0, missing));
    }
    for (double& bias : bias_) bias -= sum / kExperts;
  }

 private:
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  int choices_;
  std::vector<double> preference_;
  std::vector<double> bias_;
};

struct Course {
  int reached = kSteps;  ///< first of five steps in a row with MaxVio at most 0.2; kSteps: never
  double end = 0;        ///< mean MaxVio of the last 50 steps
  std::vector<double> rates;
  std::vector<double> maxvio;
  std::vector<AdaptiveMove> moves;
};

/// @param control  null: `rate` throughout, by the sign law
Course balance(SimulatedRouter router, AdaptiveControl* control, double rate) {
  Course course;
  int met = 0;
  for (int step = 1; step <= kSteps; ++step) {
    const Load load = router.step();
    course.maxvio.push_back(maxvio(load));
    met = course.maxvio.back() <= 0.2 ? met + 1 : 0;
    if (met == 5 && course.reached == kSteps) course.reached = step - 4;
    if (step > kSteps - 50) course.end += course.maxvio.back() / 50;
    if (control) {
      // As in training: a step's bias moves at the rate that was known before its load was.
      rate = control->settings().bias_rate[0];
      for (AdaptiveMove& move : control->observe(step, {load})) course.moves.push_back(move);
    }
    course.rates.push_back(rate);
    router.update_bias(load, rate, control ? AdaptiveControl::kBiasLaw : BiasLaw::kSign);
  }
  return course;
}

/// Slots of a layer of 8 experts with `share` of 8000 slots on expert 2, the rest even.
Load skewed(double share) {
  Load load(kExperts, static_cast<int64_t>(8000 * (1 - share) / 7));
  load[2] = static_cast<int64_t>(8000 * share);
  return load;
}
const Load kEven(kExperts, 1000);

// 80 % of slots on one expert of 8 is a MaxVio of 5.4.
TEST(AdaptiveControl, BalancesACollapsedRouterSoonerThanAnyFixedRate) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const SimulatedRouter router(2.9, 1, seed);
    AdaptiveControl control = controller();
    const Course adaptive = balance(router, &control, 0);
    EXPECT_GT(adaptive.maxvio[0], 4.8);
    EXPECT_LT(adaptive.reached, 60);
    EXPECT_LT(adaptive.end, 0.2);
    for (const double rate : {1e-3, 3e-3, 1e-2, 3e-2, 1e-1}) {
      const Course fixed = balance(router, nullptr, rate);
      EXPECT_LT(adaptive.reached, fixed.reached) << "rate " << rate;
      EXPECT_LT(adaptive.end, fixed.end) << "rate " << rate;
    }
  }
}

TEST(AdaptiveControl, BalancesByTheBiasAlone) {
  for (const int choices : {1, 2}) {
    AdaptiveControl control = controller();
    const Course course = balance(SimulatedRouter(2.9, choices, 5), &control, 0);
    EXPECT_GT(*std::max_element(course.rates.begin(), course.rates.end()), 0.01);
    EXPECT_LT(course.end, 0.2);
    EXPECT_EQ(control.settings().switch_loss, 1e-2) << "the bias alone got there";
    EXPECT_EQ(control.settings().temperature, 1.0);
  }
}

TEST(AdaptiveControl, LeavesABalancedRouterAlone) {
  AdaptiveControl control = controller();
  for (int step = 1; step <= 100; ++step) {
    Load load = kEven;
    load[static_cast<size_t>(step * 5 % kExperts)] += 150;
    EXPECT_TRUE(control.observe(step, {load}).empty()) << "step " << step;
  }
}

// 10 slots an expert: chance alone makes a MaxVio of about 0.6, which no rate can lower.
TEST(AdaptiveControl, DoesNotChaseWhatChanceMakes) {
  std::mt19937 random(3);
  AdaptiveControl control = controller();
  for (int step = 1; step <= 400; ++step) {
    Load load(kExperts);
    for (int slot = 0; slot < 80; ++slot) ++load[random() % kExperts];
    control.observe(step, {load});
    EXPECT_LE(control.settings().bias_rate[0], 0.02);
    EXPECT_EQ(control.settings().switch_loss, 1e-2);
  }
}

// Two experts change places in every step: e(t) . e(t-1) = -|e|^2.
TEST(AdaptiveControl, HalvesTheRateWhereImbalanceAlternates) {
  AdaptiveControl control = controller();
  double expected = 0.01;
  for (int step = 1; step <= 30; ++step) {
    Load load = kEven;
    load[static_cast<size_t>(step % 2)] += 700;
    load[static_cast<size_t>(1 - step % 2)] -= 700;
    control.observe(step, {load});
    if (step % 2 == 1 && step > 1) expected = std::max(1e-4, expected / 2);
    EXPECT_EQ(control.settings().bias_rate[0], expected) << "step " << step;
  }
  EXPECT_EQ(expected, 1e-4);
}

// An expert has all slots for a step, then the next has: nothing lasts, and no expert ever has what it had.
TEST(AdaptiveControl, HalvesTheRateWhereAMonopolyGoesRound) {
  AdaptiveControl control = controller();
  for (int step = 1; step <= 21; ++step) {
    Load load(kExperts, 0);
    load[static_cast<size_t>(step % 6)] = 8000;
    control.observe(step, {load});
  }
  EXPECT_LT(control.settings().bias_rate[0], 1e-3);
}

TEST(AdaptiveControl, SteersEachLayerByItself) {
  AdaptiveControl control = controller(enabled(), 3);
  for (int step = 1; step <= 8; ++step) {
    for (const AdaptiveMove& move : control.observe(step, {kEven, skewed(0.8), kEven})) EXPECT_EQ(move.layer, 1) << move.text;
  }
  EXPECT_EQ(control.settings().bias_rate[0], 0.01);
  EXPECT_GT(control.settings().bias_rate[1], 0.01);
  EXPECT_EQ(control.settings().bias_rate[2], 0.01);
}

// A router on which nothing has an effect: every setting goes to its bound, the bias first, the temperature last; the losses come back.
TEST(AdaptiveControl, MovesInOrderWithinItsBoundsAndBack) {
  AdaptiveConfig config = enabled();
  config.bias_rate_max = 0.03;
  config.switch_loss_max = 0.03;
  config.temperature_max = 1.3;
  AdaptiveControl control = controller(config);
  std::vector<std::string> order;
  int step = 0;
  const auto run = [&](const Load& load, int steps) {
    for (const int last = step + steps; step < last;) {
      for (const AdaptiveMove& move : control.observe(++step, {load})) {
        EXPECT_NE(move.from, move.to) << move.text;
        order.push_back(move.layer >= 0 ? "bias" : move.text.find("temperature") != std::string::npos ? "temperature" : "switch");
      }
      const AdaptiveSettings& now = control.settings();
      EXPECT_TRUE(now.bias_rate[0] >= 0.01 && now.bias_rate[0] <= 0.03) << now.bias_rate[0];
      EXPECT_TRUE(now.switch_loss >= 0.01 && now.switch_loss <= 0.03) << now.switch_loss;
      EXPECT_TRUE(now.temperature >= 1.0 && now.temperature <= 1.3) << now.temperature;
    }
    order.erase(std::unique(order.begin(), order.end()), order.end());
  };
  run(skewed(0.8), 600);
  EXPECT_EQ(order, (std::vector<std::string>{"bias", "switch", "temperature"}));
  EXPECT_EQ(control.settings().bias_rate[0], 0.03);
  EXPECT_EQ(control.settings().switch_loss, 0.03);
  EXPECT_EQ(control.settings().temperature, 1.3);
  order.clear();
  run(kEven, 600);
  EXPECT_TRUE(std::is_sorted(order.rbegin(), order.rend())) << "the temperature goes back first, it was the last resort";
  EXPECT_EQ(std::set<std::string>(order.begin(), order.end()), (std::set<std::string>{"switch", "temperature"}));
  EXPECT_EQ(control.settings().bias_rate[0], 0.03) << "an even load moves no bias, whatever the rate";
  EXPECT_EQ(control.settings().switch_loss, 0.01);
  EXPECT_EQ(control.settings().temperature, 1.0);
}

// A router that is balanced just as long as the Switch coefficient is above the configured one.
TEST(AdaptiveControl, UndoesAStepLessAndLessOften) {
  AdaptiveConfig config = enabled();
  config.bias_rate_max = 0;
  AdaptiveControl control = controller(config);
  std::vector<int> steps;
  for (int step = 1; step <= 6000; ++step) {
    const bool balanced = control.settings().switch_loss > 0.01;
    if (!control.observe(step, {balanced ? kEven : skewed(0.8)}).empty()) steps.push_back(step);
  }
  EXPECT_EQ(control.settings().bias_rate[0], 0);
  ASSERT_GE(steps.size(), 6u);
  EXPECT_LE(steps.size(), 24u);
  EXPECT_GE(steps[5] - steps[4], 2 * (steps[3] - steps[2]) - 20);
}

TEST(AdaptiveControl, TheTargetMayBeMissedForAStep) {
  AdaptiveControl control = controller();
  for (int step = 1; step <= 100; ++step) {
    EXPECT_TRUE(control.observe(step, {step % 7 == 0 ? skewed(0.2) : kEven}).empty()) << "step " << step;
  }
}

TEST(AdaptiveControl, DoesNotPushWhatIsOnItsWay) {
  AdaptiveControl control = controller();
  int step = 0;
  for (const int64_t excess : {900, 440, 210}) {
    Load load = kEven;
    load[4] += excess;
    load[5] -= excess / 2;
    load[6] -= excess / 2;
    EXPECT_TRUE(control.observe(++step, {load}).empty()) << "step " << step;
  }
}

TEST(AdaptiveControl, EachMoveSaysWhatAndWhy) {
  AdaptiveControl control = controller();
  std::vector<AdaptiveMove> moves;
  for (int step = 40; moves.empty(); ++step) moves = control.observe(step, {skewed(0.8)});
  EXPECT_EQ(moves[0].text,
            "step 42: bias rate of layer 0 0.01 -> 0.02: MaxVio 5.40, target 0.20; 100 % of a step's imbalance is left in the next");
}

TEST(AdaptiveControl, RestoredStateGoesOnWithTheSameMoves) {
  for (const int cut : {1, 2, 7, 13, 24, 40}) {
    SimulatedRouter router(2.9, 1, 9);
    AdaptiveControl whole = controller();
    AdaptiveControl resumed = controller();
    for (int step = 1; step <= 80; ++step) {
      if (step == cut) {
        EXPECT_TRUE(resumed.restore(whole.state()));
      }
      const Load load = router.step();
      const auto seen = whole.observe(step, {load});
      if (step >= cut) {
        const auto again = resumed.observe(step, {load});
        ASSERT_EQ(again.size(), seen.size()) << "step " << step << " cut " << cut;
        for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(again[i].text, seen[i].text);
        EXPECT_EQ(resumed.state(), whole.state());
      }
      router.update_bias(load, whole.settings().bias_rate[0], AdaptiveControl::kBiasLaw);
    }
  }
}

TEST(AdaptiveControl, BringsWhatItResumesInsideNewBoundsAndSaysSo) {
  auto state = controller().state();
  state["adaptive.temperature"] = 1.9;
  state["adaptive.switch_loss"] = 0.04;
  state["adaptive.layers.0.bias_rate"] = 0.02;
  AdaptiveConfig narrow{.enabled = true};
  narrow.bias_rate_max = 0.01;
  narrow.temperature_max = 1.25;
  AdaptiveControl resumed(narrow, {.bias_rate = {0.0}, .switch_loss = 0.01, .temperature = 1.0},
                          {.count = 1, .experts = kExperts, .first = 3});
  ASSERT_TRUE(resumed.restore(state));
  EXPECT_EQ(resumed.settings().temperature, 1.25);
  const auto moves = resumed.observe(21, {skewed(0.8)});
  ASSERT_EQ(moves.size(), 2u);
  EXPECT_EQ(
      moves[0].text,
      "step 21: bias rate of layer 3 0.02 -> 0.01: the run was resumed with bounds (model.moe.adaptive) that the setting was outside of");
  EXPECT_EQ(moves[1].text,
            "step 21: temperature 1.9 -> 1.25: the run was resumed with bounds (model.moe.adaptive) that the setting was outside of");
  EXPECT_TRUE(resumed.observe(22, {skewed(0.8)}).empty()) << "told once";
}

TEST(AdaptiveControl, StateIsAllOrNothing) {
  AdaptiveControl control = controller();
  for (int step = 1; step <= 5; ++step) control.observe(step, {skewed(0.8)});
  AdaptiveControl fresh = controller();
  EXPECT_FALSE(fresh.restore({{"loss_scale", 1.0}}));
  EXPECT_EQ(fresh.state(), controller().state());
  auto part = control.state();
  part.erase("adaptive.layers.0.error.3");
  EXPECT_THROW(fresh.restore(part), CheckpointError);
  EXPECT_EQ(fresh.state(), controller().state());
}

TEST(AdaptiveControl, TurnedOffLeavesWhatWasConfigured) {
  AdaptiveControl control({}, {.bias_rate = {0.0}, .switch_loss = 0.3, .temperature = 0.7}, {.count = 2, .experts = kExperts});
  for (int step = 1; step <= 100; ++step) EXPECT_TRUE(control.observe(step, {skewed(0.8), kEven}).empty());
  EXPECT_EQ(control.settings().bias_rate, (std::vector<double>{0.0, 0.0}));
  EXPECT_EQ(control.settings().switch_loss, 0.3);
  EXPECT_EQ(control.settings().temperature, 0.7);
}

// Two dense layers before the first with experts: what is told is the model's layer.
TEST(AdaptiveControl, NamesTheModelsLayer) {
  AdaptiveControl control(enabled(), {.bias_rate = {0}}, {.count = 2, .experts = kExperts, .first = 2});
  std::vector<AdaptiveMove> moves;
  for (int step = 1; moves.empty(); ++step) moves = control.observe(step, {kEven, skewed(0.8)});
  EXPECT_EQ(moves[0].layer, 3);
  EXPECT_NE(moves[0].text.find("bias rate of layer 3 "), std::string::npos) << moves[0].text;
}

TEST(AdaptiveControl, ItsTemperatureIsFoundAmongACheckpointsNumbers) {
  EXPECT_EQ(AdaptiveControl::temperature_in({{"loss_scale", 1.0}}), std::nullopt);
  EXPECT_EQ(AdaptiveControl::temperature_in(controller().state()), 1.0);
}

}  // namespace
}  // namespace pimoe
