#include "train/spikes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

namespace pimoe {
namespace {

SpikeConfig config_of(double sigma, int64_t window) { return {.action = OnSpike::kSkip, .sigma = sigma, .window = window}; }

SpikeWatch after(int64_t steps, const SpikeConfig& config) {
  SpikeWatch watch(config);
  std::mt19937 random(5);
  std::normal_distribution<double> loss(3.0, 0.1);
  std::normal_distribution<double> norm(1.0, 0.05);
  for (int64_t step = 0; step < steps; ++step) watch.take(loss(random), norm(random));
  return watch;
}

/// The mean and the variance of `values` with weights that fall by 1 - a from each to the one before it, in two passes.
std::pair<double, double> weighted(const std::vector<double>& values, int64_t window) {
  std::vector<double> weights;
  for (size_t n = 1; n <= values.size(); ++n) {
    const double share = std::max(1.0 / static_cast<double>(n), 2.0 / (static_cast<double>(window) + 1));
    for (double& weight : weights) weight *= 1 - share;
    weights.push_back(share);
  }
  double mean = 0.0;
  for (size_t i = 0; i < values.size(); ++i) mean += weights[i] * values[i];
  double variance = 0.0;
  for (size_t i = 0; i < values.size(); ++i) variance += weights[i] * (values[i] - mean) * (values[i] - mean);
  return {mean, variance};
}

TEST(SpikeWatch, MeanAndVarianceAreTheWeightedOnes) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> value(0.0, 4.0);
  for (const int64_t window : {2, 10, 50}) {
    SpikeWatch watch(config_of(1e9, window));
    std::vector<double> losses;
    for (int step = 0; step < 200; ++step) {
      losses.push_back(value(random));
      watch.take(losses.back(), 1.0);
      const auto [mean, variance] = weighted(losses, window);
      EXPECT_NEAR(watch.state().at("spikes.loss.mean"), mean, 1e-12);
      EXPECT_NEAR(watch.state().at("spikes.loss.variance"), variance, 1e-12);
    }
  }
}

TEST(SpikeWatch, TellsWhatIsFarAboveAndNothingElse) {
  const SpikeWatch watch = after(200, config_of(6, 100));
  EXPECT_EQ(watch.spike(3.3, 1.1), "");
  EXPECT_EQ(watch.spike(0.1, 0.0), "") << "low is no spike";
  EXPECT_NE(watch.spike(9.0, 1.0).find("loss 9.0000 is "), std::string::npos) << watch.spike(9.0, 1.0);
  EXPECT_EQ(watch.spike(9.0, 1.0).find("norm"), std::string::npos);
  EXPECT_NE(watch.spike(3.0, 2.0).find("gradient norm 2.0000 is "), std::string::npos);
  EXPECT_NE(watch.spike(9.0, 2.0).find(", gradient norm"), std::string::npos) << "both are told";
}

TEST(SpikeWatch, SaysNothingBeforeAWindowIsFullOrWhenItIsOff) {
  EXPECT_EQ(after(99, config_of(6, 100)).spike(100.0, 100.0), "");
  EXPECT_NE(after(100, config_of(6, 100)).spike(100.0, 100.0), "");
  SpikeConfig off = config_of(6, 100);
  off.action = OnSpike::kOff;
  EXPECT_EQ(after(100, off).spike(100.0, 100.0), "");
}

TEST(SpikeWatch, OneSpikeThatIsTakenHidesNoOther) {
  SpikeWatch watch = after(200, config_of(6, 100));
  watch.take(1000.0, 1000.0);
  EXPECT_NE(watch.spike(9.0, 1.0), "");
}

TEST(SpikeWatch, ValuesThatStayHighBecomeUsual) {
  SpikeWatch watch = after(200, config_of(6, 20));
  int steps = 0;
  for (; !watch.spike(9.0, 1.0).empty(); ++steps) {
    ASSERT_LT(steps, 100);
    watch.take(9.0, 1.0);
  }
  EXPECT_GT(steps, 1);
}

TEST(SpikeWatch, GoesOnFromItsState) {
  const SpikeWatch watch = after(150, config_of(6, 100));
  SpikeWatch restored(config_of(6, 100));
  restored.restore(watch.state());
  EXPECT_EQ(restored.state(), watch.state());
  for (const auto& [key, value] : watch.state()) EXPECT_TRUE(SpikeWatch::is_state(key)) << key;
  restored.restore({});
  EXPECT_EQ(restored.state(), SpikeWatch(config_of(6, 100)).state()) << "what is missing begins afresh";
}

}  // namespace
}  // namespace pimoe
