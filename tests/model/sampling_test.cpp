#include "model/sampling.h"
#include "base/errors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

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
