#include "ops/cpu_math.h"
#include "ops/int8_kernels.h"

namespace pimoe::cpu {
namespace {

constexpr float kRoundToInteger = 12582912.0F;  // 1.5 * 2^23: a sum's low bits are then the nearest integer, ties to even
constexpr float kMost = 127.0F;

template <class T>
PIMOE_CPU_INLINE void biased(const T* __restrict in, int64_t columns, float inverse, uint8_t* __restrict out) {
  PIMOE_CPU_NO_OVERLAP
  for (int64_t i = 0; i < columns; ++i) {
    float value = static_cast<float>(load(in[i])) * inverse;
    value = value < -kMost ? -kMost : value;
    value = value > kMost ? kMost : value;
    out[i] = static_cast<uint8_t>(to_bits(value + kRoundToInteger) - to_bits(kRoundToInteger) + kBias);
  }
}

/// As bits without their sign numbers are ordered, what is not finite behind all others.
template <class T>
PIMOE_CPU_INLINE uint32_t largest(const T* in, int64_t columns) {
  uint32_t most = 0;
  PIMOE_CPU_NO_OVERLAP
  for (int64_t i = 0; i < columns; ++i) {
    const uint32_t size = to_bits(static_cast<float>(load(in[i]))) & 0x7FFFFFFFu;
    most = size > most ? size : most;
  }
  return most;
}

template <class T, class Sum>
PIMOE_CPU_INLINE void scaled(const Sum* __restrict sums, int64_t columns, const int32_t* __restrict bias_sums, float row_scale,
                             const float* __restrict scales, T* __restrict out) {
  using A = Arithmetic<T>;
  if (bias_sums == nullptr) {
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < columns; ++i) store(&out[i], static_cast<A>(static_cast<float>(sums[i]) * (row_scale * scales[i])));
    return;
  }
  PIMOE_CPU_NO_OVERLAP
  for (int64_t i = 0; i < columns; ++i) {
    const auto sum = static_cast<int32_t>(sums[i]) - kBias * bias_sums[i];
    store(&out[i], static_cast<A>(static_cast<float>(sum) * (row_scale * scales[i])));
  }
}

}  // namespace

PIMOE_CPU_CLONES void biased_row(Dtype dtype, const void* in, int64_t columns, float inverse, uint8_t* out, int64_t padded) {
  by_dtype(
      dtype, [&](auto* type) __attribute__((always_inline)) {
        using T = std::remove_pointer_t<decltype(type)>;
        biased(static_cast<const T*>(in), columns, inverse, out);
      });
  for (int64_t i = columns; i < padded; ++i) out[i] = static_cast<uint8_t>(kBias);
}

PIMOE_CPU_CLONES float largest_size(Dtype dtype, const void* in, int64_t columns) {
  uint32_t most = 0;
  by_dtype(
      dtype, [&](auto* type) __attribute__((always_inline)) {
        using T = std::remove_pointer_t<decltype(type)>;
        most = largest(static_cast<const T*>(in), columns);
      });
  return from_bits(most > 0x7F800000u ? 0x7F800000u : most);
}

PIMOE_CPU_CLONES void scale_sums(const int32_t* sums, int64_t rows, int64_t columns, const int32_t* bias_sums, const float* row_scales,
                                 int64_t row_scale_stride, const float* scales, Dtype dtype, void* out, int64_t out_stride) {
  by_dtype(
      dtype, [&](auto* type) __attribute__((always_inline)) {
        using T = std::remove_pointer_t<decltype(type)>;
        for (int64_t row = 0; row < rows; ++row) {
          scaled(sums + row * kPanel, columns, bias_sums, row_scales[row * row_scale_stride], scales,
                 static_cast<T*>(out) + row * out_stride);
        }
      });
}

PIMOE_CPU_CLONES void scale_sums(const float* sums, int64_t rows, int64_t columns, const float* scales, Dtype dtype, void* out,
                                 int64_t out_stride) {
  by_dtype(
      dtype, [&](auto* type) __attribute__((always_inline)) {
        using T = std::remove_pointer_t<decltype(type)>;
        for (int64_t row = 0; row < rows; ++row) {
          scaled(sums + row * kPanel, columns, nullptr, 1.0F, scales, static_cast<T*>(out) + row * out_stride);
        }
      });
}

}  // namespace pimoe::cpu
