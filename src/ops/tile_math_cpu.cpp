#include "ops/tile_kernels.h"

// Written out for AVX-512, without which has_tile_product() says no: what the compiler makes of the plain loops takes three times as long, most
// of it for rounding to bfloat16, which is one instruction here. That takes numbers below 2^-126 for zero.
#if PIMOE_HAS_TILE_MATH

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

// GCC's own header reads an undefined register in reductions, and warns of it.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#define PIMOE_TILE_INLINE inline __attribute__((always_inline))

namespace pimoe::cpu {
namespace {

constexpr int64_t kLanes = 16;

/// All sixteen lanes: moves under a mask cost several times as much, even if it leaves none out.
struct AllLanes {};

/// Calls body(i, lanes) for the groups of sixteen of a row of `count` numbers: the first number, and AllLanes or the mask of those that are left.
template <class Body>
PIMOE_TILE_INLINE void by_lanes(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, AllLanes{});
  if (i < count) body(i, static_cast<__mmask16>((1U << (count - i)) - 1));
}

PIMOE_TILE_INLINE __m512 load(const float* from, AllLanes) { return _mm512_loadu_ps(from); }
PIMOE_TILE_INLINE __m512 load(const float* from, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, from); }
PIMOE_TILE_INLINE void store(float* to, AllLanes, __m512 value) { _mm512_storeu_ps(to, value); }
PIMOE_TILE_INLINE void store(float* to, __mmask16 lanes, __m512 value) { _mm512_mask_storeu_ps(to, lanes, value); }

PIMOE_TILE_INLINE __m512 widen(__m256i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)); }
PIMOE_TILE_INLINE __m512 load(const uint16_t* from, AllLanes) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }
PIMOE_TILE_INLINE __m512 load(const uint16_t* from, __mmask16 lanes) { return widen(_mm256_maskz_loadu_epi16(lanes, from)); }
PIMOE_TILE_INLINE __m256i narrow(__m512 value) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)); }
PIMOE_TILE_INLINE void store(uint16_t* to, AllLanes, __m256i bits) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits); }
PIMOE_TILE_INLINE void store(uint16_t* to, __mmask16 lanes, __m256i bits) { _mm256_mask_storeu_epi16(to, lanes, bits); }
template <class Lanes>
PIMOE_TILE_INLINE void store(uint16_t* to, Lanes lanes, __m512 value) {
  store(to, lanes, narrow(value));
}

PIMOE_TILE_INLINE __m512i load(const int32_t* from, AllLanes) { return _mm512_loadu_si512(from); }
PIMOE_TILE_INLINE __m512i load(const int32_t* from, __mmask16 lanes) { return _mm512_maskz_loadu_epi32(lanes, from); }

/// What the lanes that are left out have instead of zero.
PIMOE_TILE_INLINE __m512 or_else(__m512, AllLanes, __m512 value) { return value; }
PIMOE_TILE_INLINE __m512 or_else(__m512 other, __mmask16 lanes, __m512 value) { return _mm512_mask_mov_ps(other, lanes, value); }

/// cpu_math.h's exponential, lane by lane: within 2 units in the last place in [-87, 88], held at the ends; NaN stays NaN.
PIMOE_TILE_INLINE __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-87.0F), x);  // of two numbers one of which is NaN the second
  x = _mm512_min_ps(_mm512_set1_ps(88.0F), x);
  const __m512 round = _mm512_set1_ps(12582912.0F);
  const __m512 shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(1.44269504088896341F), round);
  const __m512 n = _mm512_sub_ps(shifted, round);
  const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4F), _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375F), x));
  __m512 p = _mm512_set1_ps(1.9875691500e-4F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1F));
  const __m512 value = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r), _mm512_set1_ps(1.0F));
  const __m512i exponent = _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23), _mm512_set1_epi32(0x3F800000));
  return _mm512_mul_ps(value, _mm512_castsi512_ps(exponent));
}

/// 1 / (1 + e^-x) within a millionth: by 2^y, which takes fewer operations than e^x does, an estimate of the quotient of 14 bits, and one step of
/// Newton's for the rest; a division takes twice as long.
/// @source Cephes exp2f.
PIMOE_TILE_INLINE __m512 logistic(__m512 x) {
  const __m512 minus_log2_e = _mm512_set1_ps(-1.44269504088896341F);
  x = _mm512_max_ps(_mm512_set1_ps(-87.0F), x);  // of two numbers one of which is NaN the second
  x = _mm512_min_ps(_mm512_set1_ps(87.0F), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, minus_log2_e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_fmsub_ps(x, minus_log2_e, n);
  __m512 p = _mm512_set1_ps(1.535336188319500e-4F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.339887440266574e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.618437357674640e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550332471162809e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402264791363012e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931472028550421e-1F));
  const __m512 one = _mm512_set1_ps(1.0F);
  const __m512 below = _mm512_add_ps(one, _mm512_scalef_ps(_mm512_fmadd_ps(p, r, one), n));
  const __m512 estimate = _mm512_rcp14_ps(below);
  return _mm512_mul_ps(estimate, _mm512_fnmadd_ps(below, estimate, _mm512_set1_ps(2.0F)));
}

/// The largest of a row of at least one; of NaN nothing is promised, it comes back with its own exponential.
PIMOE_TILE_INLINE float largest_of(const float* row, int64_t count) {
  const __m512 least = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 largest = least;
  by_lanes(count, [&](int64_t i, auto lanes) { largest = _mm512_max_ps(largest, or_else(least, lanes, load(row + i, lanes))); });
  return _mm512_reduce_max_ps(largest);
}

/// out = e^(scale (row - shift)), rounded where it is bfloat16. @returns their sum, of what is not rounded
template <class Out>
PIMOE_TILE_INLINE float exponentials(const float* row, int64_t count, float shift, float scale, Out* out) {
  __m512 sum = _mm512_setzero_ps();
  by_lanes(count, [&](int64_t i, auto lanes) {
    const __m512 value = exponential(_mm512_mul_ps(_mm512_sub_ps(load(row + i, lanes), _mm512_set1_ps(shift)), _mm512_set1_ps(scale)));
    store(out + i, lanes, value);
    sum = _mm512_add_ps(sum, or_else(_mm512_setzero_ps(), lanes, value));
  });
  return _mm512_reduce_add_ps(sum);
}

}  // namespace

void narrow_rows(const float* in, int64_t in_stride, int64_t rows, int64_t columns, uint16_t* out, int64_t out_stride,
                 const float* divisors) {
  for (int64_t row = 0; row < rows; ++row) {
    if (divisors != nullptr) {
      const __m512 factor = _mm512_set1_ps(1.0F / divisors[row]);
      by_lanes(columns, [&](int64_t i, auto lanes) {
        store(out + row * out_stride + i, lanes, _mm512_mul_ps(load(in + row * in_stride + i, lanes), factor));
      });
      continue;
    }
    by_lanes(columns, [&](int64_t i, auto lanes) { store(out + row * out_stride + i, lanes, load(in + row * in_stride + i, lanes)); });
  }
}

void causal_softmax(const CausalSoftmaxArguments& a) {
  const int64_t columns = (a.first / 64 + 1) * 64;
  for (int64_t row = 0; row < a.rows; ++row) {
    const int64_t begin = a.first_keys == nullptr ? 0 : a.first_keys[row];
    const int64_t seen = a.first + row + 1 - begin;
    const float* line = a.scores + row * a.stride + begin;
    uint16_t* out = a.shares + row * a.stride;
    const float largest = largest_of(line, seen);
    a.sums[row] = exponentials(line, seen, largest, a.scale, out + begin);
    a.logsumexp[row] = largest * a.scale + std::log(a.sums[row]);
    std::fill(out, out + begin, uint16_t{0});
    std::fill(out + begin + seen, out + columns, uint16_t{0});
  }
}

void causal_softmax_backward(const SoftmaxBackwardArguments& a) {
  const __m512 scale = _mm512_set1_ps(a.scale);
  for (int64_t key = 0; key < a.keys; ++key) {
    const int64_t line = key * a.queries;
    by_lanes(a.queries, [&](int64_t query, auto lanes) {
      const __m512 shifted = _mm512_fmsub_ps(load(a.scores + line + query, lanes), scale, load(a.logsumexp + query, lanes));
      __m512 share = exponential(shifted);
      __m512 rest = _mm512_sub_ps(load(a.grad_shares + line + query, lanes), load(a.dots + query, lanes));
      const int64_t first_seen = a.diagonal ? key - query : 0;
      if (first_seen > 0) {
        const auto seen = static_cast<__mmask16>(first_seen >= kLanes ? 0 : 0xFFFFU << first_seen);
        share = _mm512_maskz_mov_ps(seen, share);
        rest = _mm512_maskz_mov_ps(seen, rest);
      }
      if (a.first_keys != nullptr) {
        const __mmask16 seen = _mm512_cmple_epi32_mask(load(a.first_keys + query, lanes), _mm512_set1_epi32(static_cast<int>(key)));
        share = _mm512_maskz_mov_ps(seen, share);
        rest = _mm512_maskz_mov_ps(seen, rest);
      }
      store(a.shares + line + query, lanes, share);
      store(a.grad_scores + line + query, lanes, _mm512_mul_ps(_mm512_mul_ps(share, rest), scale));
    });
  }
}

void row_dots(const uint16_t* left, const uint16_t* right, int64_t stride, int64_t rows, int64_t columns, float* dots) {
  for (int64_t row = 0; row < rows; ++row) {
    __m512 sum = _mm512_setzero_ps();
    by_lanes(columns, [&](int64_t i, auto lanes) {
      sum = _mm512_fmadd_ps(load(left + row * stride + i, lanes), load(right + row * stride + i, lanes), sum);
    });
    dots[row] = _mm512_reduce_add_ps(sum);
  }
}

void swiglu_tile(const SwigluTileArguments& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    const __m512 weight = _mm512_set1_ps(a.weights == nullptr ? 1.0F : a.weights[row]);
    by_lanes(a.columns, [&](int64_t i, auto lanes) {
      const __m256i gate = narrow(load(a.gate_sums + row * a.sums_stride + i, lanes));
      const __m256i up = narrow(load(a.up_sums + row * a.sums_stride + i, lanes));
      store(a.gate + row * a.gate_up_stride + i, lanes, gate);
      store(a.up + row * a.gate_up_stride + i, lanes, up);
      const __m512 g = widen(gate);
      const __m512 hidden = _mm512_mul_ps(_mm512_mul_ps(g, logistic(g)), widen(up));
      store(a.hidden + row * a.hidden_stride + i, lanes, _mm512_mul_ps(hidden, weight));
    });
  }
}

// silu'(g) = s (1 + g (1 - s)), s the logistic function.
void swiglu_tile_backward(const SwigluTileArguments& a) {
  const __m512 one = _mm512_set1_ps(1.0F);
  for (int64_t row = 0; row < a.rows; ++row) {
    const __m512 weight = _mm512_set1_ps(a.weights == nullptr ? 1.0F : a.weights[row]);
    __m512 dot = _mm512_setzero_ps();
    by_lanes(a.columns, [&](int64_t i, auto lanes) {
      const __m512 g = load(a.gate + row * a.gate_up_stride + i, lanes);
      const __m512 u = load(a.up + row * a.gate_up_stride + i, lanes);
      const __m512 grad = load(a.grad_hidden + row * a.sums_stride + i, lanes);
      const __m512 d = _mm512_mul_ps(grad, weight);
      const __m512 s = logistic(g);
      const __m512 silu = _mm512_mul_ps(g, s);
      const __m512 hidden = _mm512_mul_ps(silu, u);
      dot = _mm512_fmadd_ps(grad, hidden, dot);
      store(a.hidden + row * a.hidden_stride + i, lanes, _mm512_mul_ps(hidden, weight));
      const __m512 slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(one, s), s);
      store(a.grad_gate + row * a.grad_stride + i, lanes, _mm512_mul_ps(_mm512_mul_ps(d, u), slope));
      store(a.grad_up + row * a.grad_stride + i, lanes, _mm512_mul_ps(d, silu));
    });
    if (a.dots != nullptr) a.dots[row] += _mm512_reduce_add_ps(dot);
  }
}

void cross_entropy_tile(float* logits, int64_t rows, int64_t vocabulary, const int64_t* targets, float* losses, uint16_t* grads) {
  for (int64_t row = 0; row < rows; ++row) {
    float* line = logits + row * vocabulary;
    uint16_t* const out = grads == nullptr ? nullptr : grads + row * vocabulary;
    const int64_t target = targets[row];
    if (target < 0) {
      losses[row] = 0;
      if (out != nullptr) std::fill_n(out, vocabulary, uint16_t{0});
      continue;
    }
    const float largest = largest_of(line, vocabulary);
    const float of_target = line[target];
    const float sum = exponentials(line, vocabulary, largest, 1.0F, line);
    losses[row] = std::log(sum) + (largest - of_target);
    if (out == nullptr) continue;
    line[target] -= sum;
    const __m512 scale = _mm512_set1_ps(1.0F / sum);
    by_lanes(vocabulary, [&](int64_t i, auto lanes) { store(out + i, lanes, _mm512_mul_ps(load(line + i, lanes), scale)); });
  }
}

}  // namespace pimoe::cpu

#else

#include <cstdlib>

namespace pimoe::cpu {

void narrow_rows(const float*, int64_t, int64_t, int64_t, uint16_t*, int64_t, const float*) { std::abort(); }
void causal_softmax(const CausalSoftmaxArguments&) { std::abort(); }
void causal_softmax_backward(const SoftmaxBackwardArguments&) { std::abort(); }
void row_dots(const uint16_t*, const uint16_t*, int64_t, int64_t, int64_t, float*) { std::abort(); }
void swiglu_tile(const SwigluTileArguments&) { std::abort(); }
void swiglu_tile_backward(const SwigluTileArguments&) { std::abort(); }
void cross_entropy_tile(float*, int64_t, int64_t, const int64_t*, float*, uint16_t*) { std::abort(); }

}  // namespace pimoe::cpu

#endif
