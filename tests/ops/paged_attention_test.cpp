#include "ops/paged_attention.h"
#include "base/errors.h"
#include "base/text.h"
#include "ops/causal_attention.h"
#include "ops/op_checks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace pimoe {
namespace {

using checks::int_values;
using checks::test_device;

/// Some sequences of which all positions are known, and the same in pages that lie anywhere.
struct Sequences {
  Sequences(const std::vector<int64_t>& lengths, int64_t heads, int64_t kv_heads, int64_t width, int64_t value_width, at::ScalarType dtype,
            uint64_t seed)
      : of(lengths) {
    at::manual_seed(seed);
    for (const int64_t length : lengths) {
      const auto normal = [&](at::IntArrayRef shape) { return at::randn(shape, at::kDouble).to(dtype); };
      queries.push_back(normal({length, heads, width}));
      keys.push_back(normal({length, kv_heads, width}));
      values.push_back(normal({length, kv_heads, value_width}));
    }
  }

  /// Computes them in the given parts, one call for each row of `schedule`: (sequence, tokens) pairs. @returns [length, H v] each
  std::vector<at::Tensor> in_pages(int64_t page_tokens, const std::vector<std::vector<std::pair<int64_t, int64_t>>>& schedule,
                                   std::optional<double> scale = std::nullopt, bool composed = false) const {
    int64_t pages = 1;  // one that nobody has
    std::vector<std::vector<int64_t>> tables;
    for (const int64_t length : of) {
      tables.emplace_back(static_cast<size_t>((length + page_tokens - 1) / page_tokens));
      pages += static_cast<int64_t>(tables.back().size());
    }
    std::vector<int64_t> order(static_cast<size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(7));
    size_t next = 0;
    for (auto& table : tables) {
      for (int64_t& page : table) page = order[next++];
    }
    const auto options = queries[0].options().device(test_device());
    // What nobody wrote; a composed product reads it with a share of nothing.
    const double none = composed || test_device().is_cuda() ? 0.0 : std::nan("");
    const KeyValuePages kept{at::full({pages, keys[0].size(1), keys[0].size(2), page_tokens}, none, options),
                             at::full({pages, keys[0].size(1), page_tokens, values[0].size(2)}, none, options)};
    std::vector<std::vector<at::Tensor>> results(of.size());
    std::vector<int64_t> done(of.size());
    for (const auto& call : schedule) {
      std::vector<PagedPart> parts;
      std::vector<at::Tensor> q, k, v;
      for (const auto& [sequence, count] : call) {
        const auto s = static_cast<size_t>(sequence);
        parts.push_back({tables[s], done[s], count});
        q.push_back(queries[s].narrow(0, done[s], count));
        k.push_back(keys[s].narrow(0, done[s], count));
        v.push_back(values[s].narrow(0, done[s], count));
        done[s] += count;
      }
      const PagedTokens tokens(parts, pages, page_tokens, test_device());
      const auto joined = [](const std::vector<at::Tensor>& rows) { return at::cat(rows).to(test_device()); };
      keep_in_pages(kept, joined(k), joined(v), tokens);
      const double factor = scale.value_or(1.0 / std::sqrt(static_cast<double>(queries[0].size(2))));
      const at::Tensor all = (composed ? composed_paged_attention(joined(q), kept, batches_of(parts, page_tokens, test_device()), factor)
                                       : paged_attention(joined(q), kept, tokens, scale))
                                 .cpu();
      int64_t row = 0;
      for (const auto& [sequence, count] : call) {
        results[static_cast<size_t>(sequence)].push_back(all.narrow(0, row, count));
        row += count;
      }
    }
    std::vector<at::Tensor> joined;
    for (const auto& parts : results) joined.push_back(at::cat(parts));
    return joined;
  }

  /// Softmax over each position and those before it, head by head, in float64; rows from position `from` on.
  at::Tensor reference(size_t sequence, double scale, int64_t from = 0) const {
    const at::Tensor q = queries[sequence].to(at::kDouble), k = keys[sequence].to(at::kDouble), v = values[sequence].to(at::kDouble);
    const int64_t group = q.size(1) / k.size(1);
    std::vector<at::Tensor> rows;
    for (int64_t position = from; position < q.size(0); ++position) {
      std::vector<at::Tensor> heads;
      for (int64_t head = 0; head < q.size(1); ++head) {
        const at::Tensor seen = k.narrow(0, 0, position + 1).select(1, head / group);
        const at::Tensor shares = at::softmax(seen.mv(q[position][head]) * scale, 0);
        heads.push_back(v.narrow(0, 0, position + 1).select(1, head / group).t().mv(shares));
      }
      rows.push_back(at::cat(heads));
    }
    return at::stack(rows);
  }

  std::vector<int64_t> of;
  std::vector<at::Tensor> queries, keys, values;
};

/// Each sequence's tokens in parts of random lengths, at random beside others'.
std::vector<std::vector<std::pair<int64_t, int64_t>>> random_schedule(const std::vector<int64_t>& lengths, int64_t most, uint64_t seed) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::vector<int64_t> left = lengths;
  std::vector<std::vector<std::pair<int64_t, int64_t>>> calls;
  while (std::any_of(left.begin(), left.end(), [](int64_t each) { return each > 0; })) {
    std::vector<std::pair<int64_t, int64_t>> call;
    for (size_t s = 0; s < left.size(); ++s) {
      if (left[s] == 0 || random() % 3 == 0) continue;
      const int64_t count = std::min<int64_t>(left[s], 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(most)));
      call.emplace_back(static_cast<int64_t>(s), count);
      left[s] -= count;
    }
    if (!call.empty()) calls.push_back(call);
  }
  return calls;
}

const std::vector<int64_t> kLengths = {1, 5, 16, 17, 40};

TEST(PagedAttention, IsCausalSoftmaxOfEachSequenceInWhateverPartsAndPages) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const int64_t kv_heads : {1, 2, 6}) {
      for (const auto& [width, value_width] : {std::pair<int64_t, int64_t>{6, 6}, {16, 70}, {3, 1}}) {
        const Sequences all(kLengths, 6, kv_heads, width, value_width, dtype, 3);
        for (const bool composed : {false, true}) {
          const double scale = 0.6;
          const auto results = all.in_pages(16, random_schedule(kLengths, 9, 11), scale, composed);
          const double allowed = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-5 : 4e-2;
          for (size_t s = 0; s < kLengths.size(); ++s) {
            EXPECT_LT((results[s].to(at::kDouble) - all.reference(s, scale)).abs().max().item<double>(), allowed)
                << concat(dtype, " kv ", kv_heads, " width ", width, " composed ", composed, " sequence ", s);
          }
        }
      }
    }
  }
}

TEST(PagedAttention, HasTheSameBitsInWhateverPartsAndPagesAndWhateverIsBeside) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Sequences all(kLengths, 6, 2, 8, 20, dtype, 5);
    // Longer parts are products for tensor cores on GPUs.
    const int64_t most = test_device().is_cuda() ? kPagedRun : 100;
    std::vector<std::vector<std::pair<int64_t, int64_t>>> alone;
    for (size_t s = 0; s < kLengths.size(); ++s) {
      for (int64_t at = 0; at < kLengths[s]; at += most) alone.push_back({{static_cast<int64_t>(s), std::min(most, kLengths[s] - at)}});
    }
    const auto expected = all.in_pages(64, alone);
    for (uint64_t seed = 0; seed < 10; ++seed) {
      for (const int64_t page_tokens : {1, 3, 16, 48}) {
        const auto results = all.in_pages(page_tokens, random_schedule(kLengths, std::min(most, 1 + static_cast<int64_t>(seed) * 2), seed));
        for (size_t s = 0; s < kLengths.size(); ++s) {
          EXPECT_TRUE(at::equal(results[s], expected[s])) << concat(dtype, " seed ", seed, " pages of ", page_tokens, " sequence ", s);
        }
      }
    }
  }
}

TEST(PagedAttention, OfLongSequencesReadsAllOfThemWhateverIsBeside) {
  const std::vector<int64_t> lengths = {3, 517, 1100};
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const int64_t kv_heads : {1, 4}) {
      const Sequences all(lengths, 4, kv_heads, 24, 36, dtype, 21);
      std::vector<std::vector<std::pair<int64_t, int64_t>>> together = {{{1, 511}, {2, 1094}}}, alone = together;
      for (int step = 0; step < 3; ++step) together.push_back({{0, 1}, {1, 2}, {2, 2}});
      for (int64_t s = 0; s < 3; ++s) {
        for (int step = 0; step < 3; ++step) alone.push_back({{s, s == 0 ? 1 : 2}});
      }
      const auto results = all.in_pages(16, together, 0.4), of_one = all.in_pages(16, alone, 0.4);
      for (size_t s = 0; s < lengths.size(); ++s) {
        const int64_t from = std::max<int64_t>(0, lengths[s] - 6);
        const at::Tensor rows = results[s].narrow(0, from, lengths[s] - from);
        const double allowed = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-5 : 4e-2;
        EXPECT_LT((rows.to(at::kDouble) - all.reference(s, 0.4, from)).abs().max().item<double>(), allowed)
            << concat(dtype, " sequence ", s);
        EXPECT_TRUE(at::equal(rows, of_one[s].narrow(0, from, lengths[s] - from))) << concat(dtype, " sequence ", s);
      }
    }
  }
}

TEST(PagedAttention, IsCausalAttention) {
  const Sequences all({30}, 6, 3, 4, 4, at::kDouble, 9);
  const at::Tensor whole = causal_attention({all.queries[0].unsqueeze(0), all.keys[0].unsqueeze(0), all.values[0].unsqueeze(0)});
  EXPECT_LT((all.in_pages(16, {{{0, 30}}})[0] - whole[0]).abs().max().item<double>(), 1e-12);
}

TEST(PagedAttention, OfNoTokensIsEmpty) {
  const auto options = at::TensorOptions().device(test_device());
  const KeyValuePages kept{at::zeros({2, 2, 3, 4}, options), at::zeros({2, 2, 4, 5}, options)};
  const PagedTokens none({}, 2, 4, test_device());
  keep_in_pages(kept, at::zeros({0, 2, 3}, options), at::zeros({0, 2, 5}, options), none);
  EXPECT_EQ(paged_attention(at::zeros({0, 4, 3}, options), kept, none).sizes(), (std::vector<int64_t>{0, 20}));
}

// Pages of 4. One token at position 6; two from 3 on, of a sequence with one page more than the table has room for; nine, too many for a run.
TEST(PagedTables, AreRunsThenPagesThenSlotsAndOthersMayFollow) {
  const std::vector<PagedPart> parts = {{{5, 2}, 6, 1}, {{7, 8, 9, 1}, 3, 2}, {{4, 0, 6}, 0, 9}};
  std::vector<int32_t> numbers;
  append_tables(parts, 4, /*width=*/3, numbers);
  const PagedTableSizes sizes{.runs = 2, .parts = 3, .width = 3, .tokens = 12, .longest = 7};
  EXPECT_EQ(static_cast<int64_t>(numbers.size()), sizes.numbers());
  numbers.push_back(-1);
  const PagedTables tables = tables_in(at::tensor(numbers, at::kInt), sizes);
  EXPECT_EQ(int_values(tables.runs), (std::vector<int64_t>{0, 6, 1, 0, 1, 3, 2, 1}));
  EXPECT_EQ(int_values(tables.pages), (std::vector<int64_t>{5, 2, 0, 7, 8, 9, 4, 0, 6}));
  EXPECT_EQ(int_values(tables.slots), (std::vector<int64_t>{10, 31, 32, 16, 17, 18, 19, 0, 1, 2, 3, 24}));
  EXPECT_EQ(tables.longest, 7);
}

TEST(PagedAttention, RefusesWhatDoesNotFit) {
  EXPECT_THROW(PagedTokens({{{2}, 0, 1}}, 2, 4, test_device()), ShapeError);     // no such page
  EXPECT_THROW(PagedTokens({{{0}, 3, 2}}, 2, 4, test_device()), ShapeError);     // too few
  EXPECT_THROW(PagedTokens({{{0, 1}, 0, 0}}, 2, 4, test_device()), ShapeError);  // no tokens
  const PagedTokens one({{{1}, 0, 1}}, 2, 4, test_device());
  const auto options = at::TensorOptions().device(test_device());
  const KeyValuePages kept{at::zeros({2, 2, 3, 4}, options), at::zeros({2, 2, 4, 5}, options)};
  EXPECT_THROW(paged_attention(at::zeros({2, 4, 3}, options), kept, one), ShapeError);
  EXPECT_THROW(paged_attention(at::zeros({1, 3, 3}, options), kept, one), ShapeError);
  EXPECT_THROW(paged_attention(at::zeros({1, 4, 3}, options.dtype(at::kDouble)), kept, one), ShapeError);
  EXPECT_THROW(paged_attention(at::zeros({1, 4, 3}, options), {kept.keys, at::zeros({2, 2, 5, 5}, options)}, one), ShapeError);
  EXPECT_THROW(keep_in_pages(kept, at::zeros({1, 2, 4}, options), at::zeros({1, 2, 5}, options), one), ShapeError);
}

}  // namespace
}  // namespace pimoe
