#include "model/sampling.h"
#include "base/errors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace pimoe {
namespace {

at::Tensor logits_of(const std::vector<double>& probabilities) { return at::log(at::tensor(probabilities, at::kDouble)); }

SamplingOptions options_of(double temperature, double top_p, int64_t top_k = 0) {
  SamplingOptions options;
  options.temperature = temperature;
  options.top_p = top_p;
  options.top_k = top_k;
  return options;
}

// Probabilities 0.1 0.6 0.3, by size: token 1 up to 0.6, token 2 up to 0.9, token 0 up to 1.
TEST(SampleToken, DrawsInProportion) {
  const at::Tensor logits = logits_of({0.1, 0.6, 0.3});
  EXPECT_EQ(sample_token(logits, options_of(1.0, 1.0), 0.0), 1);
  EXPECT_EQ(sample_token(logits, options_of(1.0, 1.0), 0.59), 1);
  EXPECT_EQ(sample_token(logits, options_of(1.0, 1.0), 0.61), 2);
  EXPECT_EQ(sample_token(logits, options_of(1.0, 1.0), 0.91), 0);
}

TEST(SampleToken, TopPKeepsTheFewestThatHoldIt) {
  const at::Tensor logits = logits_of({0.1, 0.6, 0.3});
  EXPECT_EQ(sample_token(logits, options_of(1.0, 0.5), 0.999), 1);   // one token holds 0.5
  EXPECT_EQ(sample_token(logits, options_of(1.0, 0.85), 0.999), 2);  // two hold 0.85: the third is never drawn
}

// Of the two likeliest, 0.6 and 0.3, the first has two thirds.
TEST(SampleToken, TopKKeepsSoManyAndTopPMeansTheirShares) {
  const at::Tensor logits = logits_of({0.1, 0.6, 0.3});
  EXPECT_EQ(sample_token(logits, options_of(1.0, 1.0, 1), 0.999), 1);
  EXPECT_EQ(sample_token(logits, options_of(1.0, 1.0, 2), 0.66), 1);
  EXPECT_EQ(sample_token(logits, options_of(1.0, 1.0, 2), 0.67), 2);
  EXPECT_EQ(sample_token(logits, options_of(1.0, 0.65, 2), 0.999), 1);
  EXPECT_EQ(sample_token(logits, options_of(1.0, 1.0, 99), 0.91), 0);
}

TEST(SampleToken, TemperatureZeroTakesTheFirstOfTheLikeliest) {
  EXPECT_EQ(sample_token(logits_of({0.2, 0.4, 0.4}), options_of(0.0, 1.0), 0.999), 1);
}

// 1 over 5e-324 is no number any more.
TEST(SampleToken, TheLeastTemperaturesAreThatOfZero) {
  for (const double temperature : {1e-29, 1e-31, 1e-310, 5e-324}) {
    EXPECT_EQ(sample_token(logits_of({0.2, 0.3, 0.5}), options_of(temperature, 1.0), 0.999), 2) << temperature;
  }
}

/// The same token as plainly as can be: all tokens sorted, and walked from the likeliest down.
int32_t walked_token(const at::Tensor& logits, const SamplingOptions& options, double draw) {
  std::vector<double> likely(logits.const_data_ptr<double>(), logits.const_data_ptr<double>() + logits.numel());
  const double largest = *std::max_element(likely.begin(), likely.end());
  for (double& each : likely) each = std::exp((each - largest) / options.temperature);
  std::vector<int32_t> order(likely.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](int32_t token) { return likely[static_cast<size_t>(token)]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t one, int32_t other) { return at(one) > at(other); });
  if (options.top_k > 0 && options.top_k < logits.numel()) order.resize(static_cast<size_t>(options.top_k));
  const double all = std::accumulate(order.begin(), order.end(), 0.0, [&](double sum, int32_t token) { return sum + at(token); });
  double kept = 0.0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < options.top_p * all)) kept += at(order[count++]);
  double left = draw * kept;
  size_t chosen = 0;
  while (chosen + 1 < count && left >= at(order[chosen])) left -= at(order[chosen++]);
  return order[chosen];
}

// Also with many tokens of equal scores, and with draws at both ends.
TEST(SampleToken, IsTheTokenOfAWalkThroughAllSortedTokens) {
  const char* fixed_seed = std::getenv("PIMOE_TEST_SEED");
  const auto seed = fixed_seed != nullptr ? static_cast<unsigned>(std::strtoul(fixed_seed, nullptr, 10)) : std::random_device{}();
  SCOPED_TRACE("PIMOE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<double> uniform;
  std::normal_distribution<double> normal;
  for (const int64_t vocabulary : {1, 2, 3, 17, 400}) {
    for (const double spread : {0.0, 0.1, 6.0}) {
      for (const bool in_steps : {false, true}) {
        std::vector<double> scores(static_cast<size_t>(vocabulary));
        for (double& score : scores) score = in_steps ? std::round(spread * normal(engine)) : spread * normal(engine);
        const at::Tensor logits = at::tensor(scores, at::kDouble);
        for (const int64_t top_k : {int64_t{0}, int64_t{1}, int64_t{5}, vocabulary, vocabulary + 1}) {
          for (const double top_p : {1.0, 0.931, 0.407, 0.0}) {  // of no number of equal tokens exactly the sum
            const SamplingOptions options = options_of(0.25 + uniform(engine), top_p, top_k);
            for (const double draw : {0.0, uniform(engine), uniform(engine), 1.0 - 1e-9}) {
              ASSERT_EQ(sample_token(logits, options, draw), walked_token(logits, options, draw))
                  << vocabulary << " tokens, top_k " << top_k << ", top_p " << top_p << ", draw " << draw;
            }
          }
        }
      }
    }
  }
}

TEST(SamplingOptions, KnowWhenTheModelsOwnScoresAloneDecide) {
  EXPECT_TRUE(options_of(0.0, 0.5, 3).is_plainly_greedy()) << "limits keep the likeliest always";
  EXPECT_FALSE(options_of(0.1, 1.0).is_plainly_greedy());
  SamplingOptions penalised = options_of(0.0, 1.0);
  penalised.repetition_penalty = 1.1;
  EXPECT_FALSE(penalised.is_plainly_greedy());
}

TEST(Penalised, DividesPositiveScoresAndMultipliesNegativeOnesOfEachTokenOnce) {
  const at::Tensor logits = at::tensor(std::vector<double>{2.0, -2.0, 0.0, 3.0}, at::kDouble);
  const at::Tensor result = penalised(logits, {0, 1, 0, 2}, 2.0);
  EXPECT_TRUE(at::equal(result, at::tensor(std::vector<double>{1.0, -4.0, 0.0, 3.0}, at::kDouble))) << result;
  EXPECT_TRUE(at::equal(logits, at::tensor(std::vector<double>{2.0, -2.0, 0.0, 3.0}, at::kDouble))) << "what was given stays as it is";
  EXPECT_TRUE(at::equal(penalised(logits, {0, 1}, 1.0), logits));
  EXPECT_THROW(penalised(logits, {4}, 2.0), ShapeError);
}

}  // namespace
}  // namespace pimoe
