#include "data/blend_order.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "base/errors.h"

namespace pimoe {
namespace {

std::vector<size_t> first_corpora(const BlendOrder& order, int64_t count) {
  std::vector<size_t> corpora;
  for (int64_t sample = 0; sample < count; ++sample) corpora.push_back(order.place_of(sample).corpus);
  return corpora;
}

/// Walks through `count` samples: each corpus' own are taken one after the other, and its share holds at every one of them to within the least part
/// of a sample that any order can promise. @param error  of a share as it is taken
void expect_shares_hold(const BlendOrder& order, const std::vector<double>& weights, int64_t count, double error = 1e-14) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const double most = weights.size() == 1 ? 0.0 : 1.0 - 1.0 / (2.0 * static_cast<double>(weights.size()) - 2.0);
  std::vector<int64_t> had(weights.size(), 0);
  for (int64_t sample = 0; sample < count; ++sample) {
    const BlendOrder::Place place = order.place_of(sample);
    ASSERT_EQ(place.sample, had[place.corpus]++) << "sample " << sample;
    for (size_t corpus = 0; corpus < weights.size(); ++corpus) {
      const double due = weights[corpus] / sum * static_cast<double>(sample + 1);
      ASSERT_LE(std::fabs(static_cast<double>(had[corpus]) - due), most + 1e-9 + error * static_cast<double>(sample))
          << "corpus " << corpus << " after " << sample + 1 << " samples";
    }
  }
  for (size_t corpus = 0; corpus < weights.size(); ++corpus) EXPECT_EQ(order.samples_before(count, corpus), had[corpus]);
}

TEST(BlendOrder, TwoToOneAndThreeCorporaByHand) {
  EXPECT_EQ(first_corpora(BlendOrder({2, 1}), 6), (std::vector<size_t>{0, 1, 0, 0, 1, 0}));
  // Three corpora may be 1/4 ahead and 3/4 behind: their samples are due after 2.25 5.25, 1.5 3.5 5.5 and 4.5 of the period.
  const BlendOrder order({2, 3, 1});
  EXPECT_EQ(order.period(), 6);
  EXPECT_EQ(first_corpora(order, 6), (std::vector<size_t>{1, 0, 1, 2, 0, 1}));
  EXPECT_EQ(order.place_of(7).corpus, 0u);
  EXPECT_EQ(order.place_of(7).sample, 2);
}

TEST(BlendOrder, OneCorpusIsItself) {
  const BlendOrder order({0.3});
  EXPECT_EQ(order.period(), 1);
  EXPECT_EQ(order.place_of(1'234'567'890'123).sample, 1'234'567'890'123);
  EXPECT_EQ(order.samples_before(77, 0), 77);
}

TEST(BlendOrder, WeightsAreOverTheirSum) {
  EXPECT_EQ(BlendOrder({2, 1}), BlendOrder({0.5, 0.25}));
  EXPECT_EQ(BlendOrder({0.7, 0.2, 0.1}).period(), 10);
  EXPECT_EQ(BlendOrder({70, 20, 10}), BlendOrder({0.7, 0.2, 0.1}));
  EXPECT_EQ(BlendOrder({1.7e308, 1.7e308}).period(), 2) << "whose sum is no number";
  EXPECT_EQ(BlendOrder({5e-324, 5e-324}).period(), 2);
  EXPECT_NE(BlendOrder({2, 1}), BlendOrder({1, 2}));
}

// Always the corpus that is furthest behind would leave one of these 1.7 samples behind its share.
TEST(BlendOrder, SharesHoldWhereTheGreedyRuleLetsOneFallBack) {
  const std::vector<double> weights = {124, 1, 1, 1, 8};
  expect_shares_hold(BlendOrder(weights), weights, 1000);
}

TEST(BlendOrder, SharesHoldAtEverySampleOfAnyBlend) {
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int round = 0; round < 60; ++round) {
    std::vector<double> weights(1 + random() % 12);
    for (double& weight : weights) weight = std::ceil(std::exp(random() % 700 / 100.0));
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", round " << round << ", corpora " << weights.size());
    expect_shares_hold(BlendOrder(weights), weights, 3000);
  }
}

// Counts of tokens, and of what nobody would write: no period up to a million holds them exactly.
TEST(BlendOrder, SharesWithoutAShortPeriodAreTakenAsTheNearest) {
  for (const std::vector<double>& weights :
       {std::vector<double>{3'423'123'111, 1'231'444'123}, {std::sqrt(2.0), 1, M_PI, 0.0123}, {1, 1e-5, 3e-6}}) {
    const BlendOrder order(weights);
    EXPECT_LE(order.period(), BlendOrder::kLongestPeriod);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (size_t corpus = 0; corpus < weights.size(); ++corpus) EXPECT_NEAR(order.share(corpus), weights[corpus] / sum, 1e-6);
    expect_shares_hold(order, weights, 300'000, 1e-7);
  }
  const double third = 3'423'123'111.0 / (3'423'123'111.0 + 1'231'444'123.0);
  EXPECT_NEAR(BlendOrder({3'423'123'111, 1'231'444'123}).share(0), third, 1e-11);
}

TEST(BlendOrder, APositionFarAwayIsLookedUp) {
  const BlendOrder order({5, 2, 1});
  const int64_t far = int64_t{1} << 60;
  const BlendOrder::Place place = order.place_of(far);  // a multiple of the period
  EXPECT_EQ(place.corpus, order.place_of(0).corpus);
  EXPECT_EQ(place.sample, far / 8 * 5);
  EXPECT_EQ(order.samples_before(far + 8, 1), far / 8 * 2 + 2);
}

TEST(BlendOrder, AWeightThatWouldNeverBeReadIsAConfigError) { EXPECT_THROW(BlendOrder({1, 1e-9}), ConfigError); }

}  // namespace
}  // namespace pimoe
