#include "serve/token_scores.h"
#include "base/errors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace pimoe {
namespace {

TEST(TokenScores, AreTheLogarithmsOfTheSoftmax) {
  at::manual_seed(5);
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const at::Tensor logits = (at::randn({50}, at::kDouble) * 20).to(dtype);
    const at::Tensor expected = at::log_softmax(logits.to(at::kDouble), 0);
    const TokenScores scores(logits);
    for (int64_t token = 0; token < 50; ++token) EXPECT_NEAR(scores.logprob(token), expected[token].item<double>(), 1e-12);
  }
}

TEST(TokenScores, OfTheLikeliestAreTheSameBitsAsOfTheTokens) {
  const at::Tensor logits = at::tensor({1.5, 3.25, -2.0, 3.25, 0.1}, at::kFloat);
  const TokenScores scores(logits);
  const auto top = scores.top(4);
  ASSERT_EQ(top.size(), 4u);
  EXPECT_EQ(top[0].first, 1);  // of equals the lower id
  EXPECT_EQ(top[1].first, 3);
  EXPECT_EQ(top[2].first, 0);
  EXPECT_EQ(top[3].first, 4);
  for (const auto& [token, logprob] : top) EXPECT_EQ(logprob, scores.logprob(token));
  EXPECT_EQ(top[0].second, top[1].second);
  EXPECT_EQ(scores.top(9).size(), 5u);
  EXPECT_TRUE(scores.top(0).empty());
}

TEST(TokenScores, TakeWhatIsNoNumberForTheLeastLikely) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const at::Tensor logits = at::tensor({none, 1.0, none, 2.0}, at::kDouble);
  const auto top = TokenScores(logits).top(4);
  EXPECT_EQ(top[0].first, 3);
  EXPECT_EQ(top[1].first, 1);
  EXPECT_NEAR(top[0].second, -std::log1p(std::exp(-1.0)), 1e-15);
}

TEST(TokenScores, RefuseWhatIsNoRow) { EXPECT_THROW(TokenScores(at::zeros({2, 3})), ShapeError); }

}  // namespace
}  // namespace pimoe
