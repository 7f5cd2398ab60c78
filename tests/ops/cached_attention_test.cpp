#include "ops/cached_attention.h"
#include "base/errors.h"
#include "base/text.h"
#include "ops/causal_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace pimoe {
namespace {

/// Softmax over the first `length` positions of one sequence, head by head.
at::Tensor reference(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values, int64_t length) {
  std::vector<at::Tensor> heads;
  const int64_t group = query.size(0) / keys.size(1);
  for (int64_t head = 0; head < query.size(0); ++head) {
    const at::Tensor of_keys = keys.narrow(0, 0, length).select(1, head / group);
    const at::Tensor shares = at::softmax(of_keys.mv(query[head]) / std::sqrt(static_cast<double>(query.size(1))), 0);
    heads.push_back(values.narrow(0, 0, length).select(1, head / group).t().mv(shares));
  }
  return at::cat(heads);
}

// Neighbours and others, lengths alike and not; what lies behind a length is not seen.
TEST(CachedAttention, IsSoftmaxOverWhatIsKeptOfEachSequence) {
  at::manual_seed(3);
  struct Case {
    std::vector<int64_t> sequences, lengths;
  };
  for (const Case& some : {Case{{0, 1, 2}, {7, 7, 7}}, Case{{1, 2}, {1, 9}}, Case{{3, 0, 2}, {4, 9, 2}}, Case{{2}, {5}}, Case{{}, {}}}) {
    for (const int64_t kv_heads : {1, 2, 4}) {
      for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
        const auto count = static_cast<int64_t>(some.sequences.size());
        const auto normal = [&](at::IntArrayRef shape) { return at::randn(shape, at::kDouble).to(dtype); };
        const at::Tensor queries = normal({count, 4, 6}), keys = normal({4, 9, kv_heads, 6}), values = normal({4, 9, kv_heads, 6});
        const at::Tensor result = cached_attention(queries, keys, values, some.sequences, some.lengths);
        ASSERT_EQ(result.sizes(), (std::vector<int64_t>{count, 24}));
        EXPECT_EQ(result.scalar_type(), dtype);
        const double allowed = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-5 : 3e-2;
        for (int64_t at = 0; at < count; ++at) {
          const int64_t sequence = some.sequences[static_cast<size_t>(at)];
          const at::Tensor expected = reference(queries[at].to(at::kDouble), keys[sequence].to(at::kDouble),
                                                values[sequence].to(at::kDouble), some.lengths[static_cast<size_t>(at)]);
          EXPECT_LT((result[at].to(at::kDouble) - expected).abs().max().item<double>(), allowed)
              << concat(dtype, " kv ", kv_heads, " sequence ", sequence);
        }
      }
    }
  }
}

TEST(CachedAttention, OfTheLastPositionIsThatOfCausalAttention) {
  at::manual_seed(4);
  const at::Tensor queries = at::randn({2, 8, 6, 4}, at::kDouble), keys = at::randn({2, 8, 3, 4}, at::kDouble);
  const at::Tensor values = at::randn({2, 8, 3, 4}, at::kDouble);
  const at::Tensor whole = causal_attention({queries, keys, values});
  const at::Tensor last = cached_attention(queries.select(1, 7), keys, values, {0, 1}, {8, 8});
  EXPECT_LT((last - whole.select(1, 7)).abs().max().item<double>(), 1e-12);
}

TEST(CachedAttention, RefusesWhatDoesNotFit) {
  const at::Tensor queries = at::zeros({1, 4, 6}), keys = at::zeros({2, 5, 2, 6});
  EXPECT_THROW(cached_attention(queries, keys, keys, {2}, {1}), ShapeError);
  EXPECT_THROW(cached_attention(queries, keys, keys, {0}, {6}), ShapeError);
  EXPECT_THROW(cached_attention(queries, keys, keys, {0}, {0}), ShapeError);
  EXPECT_THROW(cached_attention(queries, keys, keys, {0, 1}, {1, 1}), ShapeError);
  EXPECT_THROW(cached_attention(queries, at::zeros({2, 5, 3, 6}), at::zeros({2, 5, 3, 6}), {0}, {1}), ShapeError);
}

TEST(CachedAttention, TakesValuesOfAnotherWidthAndAScale) {
  at::manual_seed(4);
  for (const int64_t width : {3, 10}) {
    const at::Tensor queries = at::randn({2, 4, 6}, at::kDouble), keys = at::randn({3, 9, 2, 6}, at::kDouble),
                     values = at::randn({3, 9, 2, width}, at::kDouble);
    const double scale = 0.7;
    const at::Tensor result = cached_attention(queries, keys, values, {2, 0}, {4, 9}, scale);
    const at::Tensor scaled = queries * (scale * std::sqrt(6.0));
    EXPECT_LT((result[0] - reference(scaled[0], keys[2], values[2], 4)).abs().max().item<double>(), 1e-12);
    EXPECT_LT((result[1] - reference(scaled[1], keys[0], values[0], 9)).abs().max().item<double>(), 1e-12);
  }
}

}  // namespace
}  // namespace pimoe
