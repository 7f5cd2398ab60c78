#include "model/sampling.h"
#include "model/model_fixture.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pimoe {
namespace {

at::Tensor logits_of(const std::vector<double>& probabilities) { return at::log(at::tensor(probabilities, at::kDouble)); }

// Probabilities 0.1 0.6 0.3, by size: token 1 up to 0.6, token 2 up to 0.9, token 0 up to 1.
TEST(SampleToken, DrawsInProportion) {
  const at::Tensor logits = logits_of({0.1, 0.6, 0.3});
  EXPECT_EQ(sample_token(logits, 1.0, 1.0, 0.0), 1);
  EXPECT_EQ(sample_token(logits, 1.0, 1.0, 0.59), 1);
  EXPECT_EQ(sample_token(logits, 1.0, 1.0, 0.61), 2);
  EXPECT_EQ(sample_token(logits, 1.0, 1.0, 0.91), 0);
}

TEST(SampleToken, TopPKeepsTheFewestThatHoldIt) {
  const at::Tensor logits = logits_of({0.1, 0.6, 0.3});
  EXPECT_EQ(sample_token(logits, 1.0, 0.5, 0.999), 1);   // one token holds 0.5
  EXPECT_EQ(sample_token(logits, 1.0, 0.85, 0.999), 2);  // two hold 0.85: the third is never drawn
}

TEST(SampleToken, TemperatureZeroTakesTheFirstOfTheLikeliest) { EXPECT_EQ(sample_token(logits_of({0.2, 0.4, 0.4}), 0.0, 1.0, 0.999), 1); }

TEST(SampleTokens, DependOnTheSeedAloneAndEndAtTheStopToken) {
  ModelFixture fixture(tiny_model(), at::kDouble);
  SamplingOptions options{.tokens = 12, .temperature = 1.0, .top_p = 1.0, .seed = 5, .stop_token = -1};
  const auto first = sample_tokens(fixture.model, {1, 2}, at::kCPU, options, nullptr);
  ASSERT_EQ(first.size(), 12u);  // longer than the model's 5 positions: the window moves
  EXPECT_EQ(sample_tokens(fixture.model, {1, 2}, at::kCPU, options, nullptr), first);
  options.seed = 6;
  EXPECT_NE(sample_tokens(fixture.model, {1, 2}, at::kCPU, options, nullptr), first);
  options.seed = 5;
  options.stop_token = first[3];
  const auto stopped = sample_tokens(fixture.model, {1, 2}, at::kCPU, options, nullptr);
  EXPECT_LE(stopped.size(), 3u);
}

}  // namespace
}  // namespace pimoe
