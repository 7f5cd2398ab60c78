#include "ops/cpu_math.h"

namespace pimoe::cpu {
namespace {

PIMOE_CPU_INLINE BFloat16* as_bfloat16(uint16_t* bits) { return reinterpret_cast<BFloat16*>(bits); }
PIMOE_CPU_INLINE const BFloat16* as_bfloat16(const uint16_t* bits) { return reinterpret_cast<const BFloat16*>(bits); }

PIMOE_CPU_INLINE float largest_of(const float* values, int64_t count) {
  float lanes[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = values[0];
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  }
  for (; i < count; ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  float largest = lanes[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
  return largest;
}

}  // namespace

PIMOE_CPU_CLONES void causal_softmax(float* scores, int64_t stride, int64_t rows, int64_t first, float scale, uint16_t* shares, float* sums,
                                     float* logsumexp) {
  const int64_t columns = (first / 64 + 1) * 64;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t seen = first + row + 1;
    float* __restrict line = scores + row * stride;
    BFloat16* __restrict out = as_bfloat16(shares) + row * stride;
    const float largest = largest_of(line, seen);
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < seen; ++i) line[i] = exponential((line[i] - largest) * scale);
    sums[row] = sum_of<float>(
        seen, [&](int64_t i) __attribute__((always_inline)) { return line[i]; });
    logsumexp[row] = largest * scale + std::log(sums[row]);
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < seen; ++i) store(&out[i], line[i]);
    for (int64_t i = seen; i < columns; ++i) out[i].bits = 0;
  }
}

PIMOE_CPU_CLONES void causal_softmax_backward(const SoftmaxBackwardArguments& a) {
  for (int64_t key = 0; key < a.keys; ++key) {
    const float* __restrict scores = a.scores + key * a.queries;
    const float* __restrict grad_shares = a.grad_shares + key * a.queries;
    const float* __restrict logsumexp = a.logsumexp;
    const float* __restrict dots = a.dots;
    BFloat16* __restrict shares = as_bfloat16(a.shares) + key * a.queries;
    BFloat16* __restrict grad_scores = as_bfloat16(a.grad_scores) + key * a.queries;
    PIMOE_CPU_NO_OVERLAP
    for (int64_t query = 0; query < a.queries; ++query) {
      const float share = exponential(scores[query] * a.scale - logsumexp[query]);
      store(&shares[query], share);
      store(&grad_scores[query], share * (grad_shares[query] - dots[query]) * a.scale);
    }
    for (int64_t query = 0; a.diagonal && query < key; ++query) shares[query].bits = grad_scores[query].bits = 0;
  }
}

PIMOE_CPU_CLONES void row_dots(const uint16_t* left, const uint16_t* right, int64_t stride, int64_t rows, int64_t columns, float* dots) {
  for (int64_t row = 0; row < rows; ++row) {
    const BFloat16* x = as_bfloat16(left) + row * stride;
    const BFloat16* y = as_bfloat16(right) + row * stride;
    dots[row] = sum_of<float>(
        columns, [&](int64_t i) __attribute__((always_inline)) { return load(x[i]) * load(y[i]); });
  }
}

}  // namespace pimoe::cpu
