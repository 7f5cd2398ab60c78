#include "ops/int8_kernels.h"

// Written out for AVX-512, as tile_math_cpu.cpp: int8_product.cpp asks for what is used here before it calls.
#if PIMOE_HAS_TILE_MATH

#include <immintrin.h>

#include <algorithm>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#define PIMOE_INT8_INLINE inline __attribute__((always_inline))

namespace pimoe::cpu {
namespace {

constexpr int64_t kBytes = 64;  // of a register
constexpr int64_t kLanes = 16;

PIMOE_INT8_INLINE __mmask64 first_bytes(int64_t count) { return count >= kBytes ? ~__mmask64{0} : (__mmask64{1} << count) - 1; }
PIMOE_INT8_INLINE __mmask16 first_lanes(int64_t count) {
  return count >= kLanes ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1U << count) - 1);
}

/// Sixteen rows of sixteen words: row i's word j becomes row j's word i.
PIMOE_INT8_INLINE void turn(__m512i (&r)[kLanes]) {
  __m512i t[kLanes];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  __m512i quads[kLanes];
  for (int i = 0; i < 4; ++i) {
    quads[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    quads[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    quads[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    quads[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512i even_low = _mm512_shuffle_i32x4(quads[j], quads[4 + j], 0x88);
    const __m512i even_high = _mm512_shuffle_i32x4(quads[8 + j], quads[12 + j], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(quads[j], quads[4 + j], 0xDD);
    const __m512i odd_high = _mm512_shuffle_i32x4(quads[8 + j], quads[12 + j], 0xDD);
    r[j] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    r[8 + j] = _mm512_shuffle_i32x4(even_low, even_high, 0xDD);
    r[4 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    r[12 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xDD);
  }
}

/// Calls body(group of sixteen columns, first term / 4, words) for every four terms: words have four terms of each column of the group.
template <class Body>
PIMOE_INT8_INLINE void by_fours(const int8_t* in, int64_t in_stride, int64_t columns, int64_t terms, Body body) {
  for (int64_t group = 0; group < kPanel / kLanes; ++group) {
    for (int64_t term = 0; term < terms; term += kBytes) {
      const __mmask64 bytes = first_bytes(terms - term);
      __m512i words[kLanes];
      for (int64_t column = 0; column < kLanes; ++column) {
        const int64_t at = group * kLanes + column;
        words[column] = at < columns ? _mm512_maskz_loadu_epi8(bytes, in + at * in_stride + term) : _mm512_setzero_si512();
      }
      turn(words);
      const int64_t fours = std::min(kLanes, (terms - term + 3) / 4);
      for (int64_t four = 0; four < fours; ++four) body(group, term / 4 + four, words[four]);
    }
  }
}

/// The four terms of each lane, as floats.
PIMOE_INT8_INLINE __m512 term_of(__m512i words, int term) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_sllv_epi32(words, _mm512_set1_epi32(24 - 8 * term)), 24));
}

/// Two terms side by side in bfloat16: a whole number of 8 bits is exact there, and so the upper half of its float32.
PIMOE_INT8_INLINE __m512i pair(__m512 first, __m512 second) {
  return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(first), 16),
                         _mm512_and_si512(_mm512_castps_si512(second), _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))));
}

/// [a, b, c, d] of which each is the sum of a register's lanes.
PIMOE_INT8_INLINE __m128i sums_of(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
PIMOE_INT8_INLINE __m128 sums_of(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

constexpr int64_t kAtOnce = 4;  // channels whose sums are made side by side

/// Where each of four channels begins; one that is missing is the last once more, whose sum nobody stores.
struct Channels {
  PIMOE_INT8_INLINE Channels(const int8_t* right, int64_t stride, int64_t first, int64_t columns)
      : count(std::min(kAtOnce, columns - first)) {
    for (int64_t i = 0; i < kAtOnce; ++i) begin[i] = right + (first + std::min(i, count - 1)) * stride;
  }
  int64_t count;
  const int8_t* begin[kAtOnce];
};

template <int64_t kRows>
PIMOE_INT8_INLINE void dots(const uint8_t* left, int64_t left_stride, const Channels& channels, int64_t terms, int32_t* sums) {
  __m512i sum[kRows][kAtOnce], numbers[kAtOnce];
  for (int64_t i = 0; i < kAtOnce; ++i) {
    numbers[i] = _mm512_setzero_si512();
    for (int64_t row = 0; row < kRows; ++row) sum[row][i] = _mm512_setzero_si512();
  }
  const __m512i ones = _mm512_set1_epi8(1);
  for (int64_t term = 0; term < terms; term += kBytes) {
    const __mmask64 bytes = first_bytes(terms - term);
    __m512i right[kAtOnce];
    for (int64_t i = 0; i < kAtOnce; ++i) {
      right[i] = _mm512_maskz_loadu_epi8(bytes, channels.begin[i] + term);
      numbers[i] = _mm512_dpbusd_epi32(numbers[i], ones, right[i]);
    }
    for (int64_t row = 0; row < kRows; ++row) {
      const __m512i factors = _mm512_loadu_si512(left + row * left_stride + term);
      for (int64_t i = 0; i < kAtOnce; ++i) sum[row][i] = _mm512_dpbusd_epi32(sum[row][i], factors, right[i]);
    }
  }
  const __mmask8 wanted = static_cast<__mmask8>((1U << channels.count) - 1);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t i = 0; i < kAtOnce; ++i) sum[row][i] = _mm512_sub_epi32(sum[row][i], _mm512_slli_epi32(numbers[i], 7));
    _mm_mask_storeu_epi32(sums + row * kPanel, wanted, sums_of(sum[row][0], sum[row][1], sum[row][2], sum[row][3]));
  }
}

template <int64_t kRows>
PIMOE_INT8_INLINE void dots(const float* left, int64_t left_stride, const Channels& channels, int64_t terms, float* sums) {
  __m512 sum[kRows][kAtOnce];
  for (int64_t i = 0; i < kAtOnce; ++i) {
    for (int64_t row = 0; row < kRows; ++row) sum[row][i] = _mm512_setzero_ps();
  }
  for (int64_t term = 0; term < terms; term += kLanes) {
    const __mmask16 lanes = first_lanes(terms - term);
    __m512 right[kAtOnce];
    for (int64_t i = 0; i < kAtOnce; ++i) {
      right[i] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes, channels.begin[i] + term)));
    }
    for (int64_t row = 0; row < kRows; ++row) {
      const __m512 factors = _mm512_maskz_loadu_ps(lanes, left + row * left_stride + term);
      for (int64_t i = 0; i < kAtOnce; ++i) sum[row][i] = _mm512_fmadd_ps(factors, right[i], sum[row][i]);
    }
  }
  const __mmask8 wanted = static_cast<__mmask8>((1U << channels.count) - 1);
  for (int64_t row = 0; row < kRows; ++row) {
    _mm_mask_storeu_ps(sums + row * kPanel, wanted, sums_of(sum[row][0], sum[row][1], sum[row][2], sum[row][3]));
  }
}

template <class Factor, class Sum>
PIMOE_INT8_INLINE void all_dots(const Factor* left, int64_t left_stride, int64_t rows, const int8_t* right, int64_t right_stride,
                                int64_t columns, int64_t terms, Sum* sums) {
  for (int64_t first = 0; first < columns; first += kAtOnce) {
    const Channels channels(right, right_stride, first, columns);
    switch (rows) {
      case 1: dots<1>(left, left_stride, channels, terms, sums + first); break;
      case 2: dots<2>(left, left_stride, channels, terms, sums + first); break;
      case 3: dots<3>(left, left_stride, channels, terms, sums + first); break;
      default: dots<4>(left, left_stride, channels, terms, sums + first); break;
    }
  }
}

}  // namespace

void pack_panel(const int8_t* in, int64_t in_stride, int64_t columns, int64_t terms, uint32_t* out, int32_t* sums) {
  const __m512i ones = _mm512_set1_epi8(1);
  std::fill_n(sums, kPanel, 0);
  by_fours(
      in, in_stride, columns, terms, [&](int64_t group, int64_t four, __m512i words) __attribute__((always_inline)) {
        _mm512_storeu_si512(out + four * kPanel + group * kLanes, words);
        int32_t* const of_group = sums + group * kLanes;
        _mm512_storeu_si512(of_group, _mm512_dpbusd_epi32(_mm512_loadu_si512(of_group), ones, words));
      });
}

void widen_panel(const int8_t* in, int64_t in_stride, int64_t columns, int64_t terms, uint32_t* out) {
  by_fours(
      in, in_stride, columns, terms, [&](int64_t group, int64_t four, __m512i words) __attribute__((always_inline)) {
        uint32_t* const at = out + 2 * four * kPanel + group * kLanes;
        _mm512_storeu_si512(at, pair(term_of(words, 0), term_of(words, 1)));
        if (4 * four + 2 < terms) _mm512_storeu_si512(at + kPanel, pair(term_of(words, 2), term_of(words, 3)));
      });
}

void widen_panel(const int8_t* in, int64_t in_stride, int64_t columns, int64_t terms, float* out) {
  by_fours(
      in, in_stride, columns, terms, [&](int64_t group, int64_t four, __m512i words) __attribute__((always_inline)) {
        for (int term = 0; term < 4 && 4 * four + term < terms; ++term) {
          _mm512_storeu_ps(out + (4 * four + term) * kPanel + group * kLanes, term_of(words, term));
        }
      });
}

void few_dots(const uint8_t* left, int64_t left_stride, int64_t rows, const int8_t* right, int64_t right_stride, int64_t columns,
              int64_t terms, int32_t* sums) {
  all_dots(left, left_stride, rows, right, right_stride, columns, terms, sums);
}

void few_dots(const float* left, int64_t left_stride, int64_t rows, const int8_t* right, int64_t right_stride, int64_t columns,
              int64_t terms, float* sums) {
  all_dots(left, left_stride, rows, right, right_stride, columns, terms, sums);
}

}  // namespace pimoe::cpu

#else

#include <cstdlib>

namespace pimoe::cpu {

void pack_panel(const int8_t*, int64_t, int64_t, int64_t, uint32_t*, int32_t*) { std::abort(); }
void widen_panel(const int8_t*, int64_t, int64_t, int64_t, uint32_t*) { std::abort(); }
void widen_panel(const int8_t*, int64_t, int64_t, int64_t, float*) { std::abort(); }
void few_dots(const uint8_t*, int64_t, int64_t, const int8_t*, int64_t, int64_t, int64_t, int32_t*) { std::abort(); }
void few_dots(const float*, int64_t, int64_t, const int8_t*, int64_t, int64_t, int64_t, float*) { std::abort(); }

}  // namespace pimoe::cpu

#endif
