#include "ops/cpu_math.h"
#include "ops/paged_attention_kernel.h"

#include <algorithm>

namespace pimoe::cpu {
namespace {

/// scores[n * stride + g] = query n . key of position g, each a sum in the order of the head's numbers: the same bits for pages of any size.
template <int64_t N, class T, class A>
PIMOE_CPU_INLINE void score_page(const A* __restrict queries, const T* __restrict keys, int64_t width, int64_t page_tokens,
                                 A* __restrict scores, int64_t stride) {
  int64_t g = 0;
  for (; g + kLanes <= page_tokens; g += kLanes) {
    A lanes[N][kLanes] = {};
    for (int64_t i = 0; i < width; ++i) {
      const T* __restrict key = keys + i * page_tokens + g;
      for (int64_t n = 0; n < N; ++n) {
        for (int64_t lane = 0; lane < kLanes; ++lane) lanes[n][lane] += queries[n * width + i] * load(key[lane]);
      }
    }
    for (int64_t n = 0; n < N; ++n) std::copy_n(lanes[n], kLanes, scores + n * stride + g);
  }
  for (; g < page_tokens; ++g) {
    for (int64_t n = 0; n < N; ++n) {
      A sum = 0;
      for (int64_t i = 0; i < width; ++i) sum += queries[n * width + i] * load(keys[i * page_tokens + g]);
      scores[n * stride + g] = sum;
    }
  }
}

/// mixed[c] += sum over positions of shares[g] values[g][c], in the order of positions.
template <int64_t C, class T, class A>
PIMOE_CPU_INLINE void mix_columns(const A* __restrict shares, const T* __restrict values, int64_t positions, int64_t width,
                                  A* __restrict mixed) {
  A sums[C];
  std::copy_n(mixed, C, sums);
  for (int64_t g = 0; g < positions; ++g) {
    for (int64_t c = 0; c < C; ++c) sums[c] += shares[g] * load(values[g * width + c]);
  }
  std::copy_n(sums, C, mixed);
}

template <class T, class A>
PIMOE_CPU_INLINE void mix_page(const A* shares, const T* values, int64_t positions, int64_t width, A* mixed) {
  int64_t c = 0;
  for (; c + 64 <= width; c += 64) mix_columns<64>(shares, values + c, positions, width, mixed + c);
  for (; c + kLanes <= width; c += kLanes) mix_columns<kLanes>(shares, values + c, positions, width, mixed + c);
  for (; c < width; ++c) mix_columns<1>(shares, values + c, positions, width, mixed + c);
}

/// The tokens of one run, for the queries of one head of keys: n of them, token after token.
template <class T, class A>
PIMOE_CPU_INLINE void attend(const PagedAttentionArguments& a, const PagedRun& run, int64_t kv, A* scratch) {
  const int64_t group = a.heads / a.kv_heads;
  const int64_t count = run.count * group;
  const int64_t page_tokens = a.page_tokens;
  const int64_t pages = (run.first + run.count + page_tokens - 1) / page_tokens;
  const int64_t stride = pages * page_tokens;
  A* __restrict queries = scratch;                   // [n, d], scaled
  A* __restrict scores = queries + count * a.width;  // [n, stride]
  A* __restrict mixed = scores + count * stride;     // [n, v]
  for (int64_t n = 0; n < count; ++n) {
    const T* query = static_cast<const T*>(a.queries) + (run.row + n / group) * a.query_stride + (kv * group + n % group) * a.width;
    for (int64_t i = 0; i < a.width; ++i) queries[n * a.width + i] = load(query[i]) * static_cast<A>(a.scale);
  }
  const auto page_of = [&](const void* of_all, int64_t page, int64_t width) __attribute__((always_inline)) {
    return static_cast<const T*>(of_all) + (run.pages[page] * a.kv_heads + kv) * page_tokens * width;
  };
  for (int64_t page = 0; page < pages; ++page) {
    const T* keys = page_of(a.keys, page, a.width);
    int64_t n = 0;
    for (; n + 4 <= count; n += 4) {
      score_page<4>(queries + n * a.width, keys, a.width, page_tokens, scores + n * stride + page * page_tokens, stride);
    }
    for (; n < count; ++n)
      score_page<1>(queries + n * a.width, keys, a.width, page_tokens, scores + n * stride + page * page_tokens, stride);
  }
  for (int64_t n = 0; n < count; ++n) {
    A* __restrict row = scores + n * stride;
    const int64_t length = run.first + n / group + 1;
    A largest = row[0];
    for (int64_t position = 1; position < length; ++position) largest = row[position] > largest ? row[position] : largest;
    for (int64_t position = 0; position < length; ++position) row[position] = exponential(row[position] - largest);
    const A inverse = A(1) / sum_of<A>(
                                 length, [&](int64_t i) __attribute__((always_inline)) { return row[i]; });
    for (int64_t position = 0; position < length; ++position) row[position] *= inverse;
    for (int64_t c = 0; c < a.value_width; ++c) mixed[n * a.value_width + c] = 0;
  }
  for (int64_t page = 0; page < pages; ++page) {
    const T* values = page_of(a.values, page, a.value_width);
    for (int64_t n = 0; n < count; ++n) {
      const int64_t seen = std::min(page_tokens, run.first + n / group + 1 - page * page_tokens);
      if (seen > 0) mix_page(scores + n * stride + page * page_tokens, values, seen, a.value_width, mixed + n * a.value_width);
    }
  }
  for (int64_t n = 0; n < count; ++n) {
    T* out = static_cast<T*>(a.output) + ((run.row + n / group) * a.heads + kv * group + n % group) * a.value_width;
    for (int64_t c = 0; c < a.value_width; ++c) store(&out[c], mixed[n * a.value_width + c]);
  }
}

}  // namespace

PIMOE_CPU_CLONES void paged_attention(const PagedAttentionArguments& arguments, void* scratch, int64_t begin, int64_t end) {
  by_dtype(
      arguments.dtype, [&](auto* type) __attribute__((always_inline)) {
        using T = std::remove_pointer_t<decltype(type)>;
        using A = Arithmetic<T>;
        for (int64_t task = begin; task < end; ++task) {
          attend<T>(arguments, arguments.runs[task / arguments.kv_heads], task % arguments.kv_heads, static_cast<A*>(scratch));
        }
      });
}

}  // namespace pimoe::cpu
