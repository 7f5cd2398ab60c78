#pragma once

/// What the CPU kernels share: 16-bit formats, an exp that vectorises, fixed-order sums. Included by *_cpu.cpp alone.
///
/// Everything is inlined into functions marked PIMOE_CPU_CLONES, which the compiler builds once for each instruction set; the program
/// takes the best at its start.

#include "ops/kernels.h"

#include <cmath>
#include <cstdint>
#include <type_traits>

// The resolvers run before a sanitizer's runtime is ready, so sanitized builds have the plain code alone.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PIMOE_CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PIMOE_CPU_CLONES
#endif
// Before a loop whose arrays are distinct: __restrict is lost where a function is inlined, and past ten pairs of arrays the compiler gives
// up comparing addresses and writes plain code, twenty times slower.
#define PIMOE_CPU_NO_OVERLAP _Pragma("GCC ivdep")
#define PIMOE_CPU_INLINE inline __attribute__((always_inline))

namespace pimoe::cpu {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class T>
using Arithmetic = std::conditional_t<std::is_same_v<T, double>, double, float>;

PIMOE_CPU_INLINE uint32_t to_bits(float value) { return __builtin_bit_cast(uint32_t, value); }
PIMOE_CPU_INLINE float from_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }

PIMOE_CPU_INLINE double load(const double& value) { return value; }
PIMOE_CPU_INLINE float load(const float& value) { return value; }
PIMOE_CPU_INLINE float load(const BFloat16& value) { return from_bits(static_cast<uint32_t>(value.bits) << 16); }

/// Two branches that a vector unit computes both: normal numbers get their exponent moved by a product, which also makes infinity and NaN
/// right; subnormal ones come out of a difference of two numbers around 0.5.
/// @source Maratyszcza, FP16 (conversion in ieee arithmetic).
PIMOE_CPU_INLINE float load(const Float16& value) {
  const uint32_t wide = static_cast<uint32_t>(value.bits) << 16;
  const uint32_t sign = wide & 0x80000000u;
  const uint32_t twice = wide + wide;
  const float normal = from_bits((twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const float subnormal = from_bits((twice >> 17) | (126u << 23)) - 0.5f;
  return from_bits(sign | (twice < (1u << 27) ? to_bits(subnormal) : to_bits(normal)));
}

PIMOE_CPU_INLINE void store(double* out, double value) { *out = value; }
PIMOE_CPU_INLINE void store(float* out, float value) { *out = value; }

/// Rounds to nearest, ties to even; a NaN stays one (rounding its bits could give an infinity).
PIMOE_CPU_INLINE void store(BFloat16* out, float value) {
  const uint32_t bits = to_bits(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  out->bits = static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

/// Rounds to nearest even by adding a number whose last place is the last one that float16 keeps.
/// @source as load(Float16).
PIMOE_CPU_INLINE void store(Float16* out, float value) {
  const uint32_t bits = to_bits(value);
  const uint32_t twice = bits + bits;
  const uint32_t exponent = twice & 0xFF000000u;
  const uint32_t bias = exponent < 0x71000000u ? 0x71000000u : exponent;
  const float scaled = (from_bits(bits & 0x7FFFFFFFu) * 0x1.0p+112f) * 0x1.0p-110f;
  const uint32_t sum = to_bits(from_bits((bias >> 1) + 0x07800000u) + scaled);
  const uint32_t magnitude = ((sum >> 13) & 0x7C00u) + (sum & 0x0FFFu);
  out->bits = static_cast<uint16_t>(((bits >> 16) & 0x8000u) | (twice > 0xFF000000u ? 0x7E00u : magnitude));
}

/// e^x within 2 units in the last place for x in [-87, 88], held at the ends outside; NaN stays NaN.
/// @source Cephes expf: x = n ln 2 + r, a polynomial in r, n into the exponent.
PIMOE_CPU_INLINE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are then the nearest integer
  const float shifted = x * 1.44269504088896341f + kRoundToInteger;
  const float n = shifted - kRoundToInteger;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float value = (p * r) * r + r + 1.0f;
  return value * from_bits((to_bits(shifted) << 23) + 0x3F800000u);
}
PIMOE_CPU_INLINE double exponential(double x) { return std::exp(x); }

/// Sums are kept in so many lanes and folded in one order: vectors of any length give the same sum, and rounding errors stay small.
constexpr int64_t kLanes = 16;

template <class A>
PIMOE_CPU_INLINE A fold(const A* lanes) {
  A sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}

/// @returns the sum of term(i) for i in [0, count).
template <class A, class Term>
PIMOE_CPU_INLINE A sum_of(int64_t count, Term term) {
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  A rest = 0;
  for (; i < count; ++i) rest += term(i);
  return fold(lanes) + rest;
}

/// Calls `body` with a null pointer of the element type that `dtype` names.
template <class Body>
PIMOE_CPU_INLINE void by_dtype(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::kFloat64: return body(static_cast<double*>(nullptr));
    case Dtype::kFloat32: return body(static_cast<float*>(nullptr));
    case Dtype::kBFloat16: return body(static_cast<BFloat16*>(nullptr));
    case Dtype::kFloat16: return body(static_cast<Float16*>(nullptr));
  }
}

/// All heads of one kind of row r, which is position r % positions of sequence r / positions.
template <class T>
PIMOE_CPU_INLINE const T* heads_of_row(const HeadRows& heads, int64_t row, int64_t positions) {
  return static_cast<const T*>(heads.data) + row / positions * heads.sequence_stride + row % positions * heads.position_stride;
}

}  // namespace pimoe::cpu
