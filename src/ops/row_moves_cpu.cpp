#include "ops/cpu_math.h"

#include <algorithm>
#include <cstring>

namespace pimoe::cpu {
namespace {

/// Columns summed at a time: few enough that the sums stay in registers or the first cache.
constexpr int64_t kColumns = 256;

template <class T>
PIMOE_CPU_INLINE void combine_tokens(const CombineArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  const T* rows = static_cast<const T*>(a.rows);
  for (int64_t token = begin; token < end; ++token) {
    const int32_t* positions = a.positions + token * a.choices;
    const A* weights = a.weights == nullptr ? nullptr : static_cast<const A*>(a.weights) + token * a.choices;
    T* __restrict out = static_cast<T*>(a.output) + token * a.width;
    for (int64_t first = 0; first < a.width; first += kColumns) {
      const int64_t columns = std::min(kColumns, a.width - first);
      A sums[kColumns];
      for (int64_t i = 0; i < columns; ++i) sums[i] = 0;
      for (int64_t k = 0; k < a.choices; ++k) {
        if (positions[k] < 0) continue;
        const T* __restrict row = rows + positions[k] * a.width + first;
        const A weight = weights == nullptr ? A(1) : weights[k];
        PIMOE_CPU_NO_OVERLAP
        for (int64_t i = 0; i < columns; ++i) sums[i] += weight * load(row[i]);
      }
      PIMOE_CPU_NO_OVERLAP
      for (int64_t i = 0; i < columns; ++i) store(&out[first + i], sums[i]);
    }
  }
}

template <class T>
PIMOE_CPU_INLINE void combine_backward_tokens(const CombineArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  for (int64_t token = begin; token < end; ++token) {
    const T* __restrict grad = static_cast<const T*>(a.grad_output) + token * a.width;
    for (int64_t k = 0; k < a.choices; ++k) {
      const int64_t slot = token * a.choices + k;
      const int64_t position = a.positions[slot];
      if (position < 0) {
        if (a.grad_weights != nullptr) static_cast<A*>(a.grad_weights)[slot] = 0;
        continue;
      }
      if (a.grad_weights != nullptr) {
        const T* __restrict row = static_cast<const T*>(a.rows) + position * a.width;
        const auto term = [&](int64_t i) __attribute__((always_inline)) { return load(grad[i]) * load(row[i]); };
        static_cast<A*>(a.grad_weights)[slot] = sum_of<A>(a.width, term);
      }
      if (a.grad_rows != nullptr) {
        T* __restrict grad_row = static_cast<T*>(a.grad_rows) + position * a.width;
        const A weight = a.weights == nullptr ? A(1) : static_cast<const A*>(a.weights)[slot];
        PIMOE_CPU_NO_OVERLAP
        for (int64_t i = 0; i < a.width; ++i) store(&grad_row[i], weight * load(grad[i]));
      }
    }
  }
}

}  // namespace

void gather_rows(const GatherArguments& a, int64_t begin, int64_t end) {
  const auto* source = static_cast<const unsigned char*>(a.source);
  auto* output = static_cast<unsigned char*>(a.output);
  for (int64_t row = begin; row < end; ++row) {
    std::memcpy(output + row * a.row_bytes, source + a.index[row] / a.divisor * a.row_bytes, static_cast<size_t>(a.row_bytes));
  }
}

PIMOE_CPU_CLONES void combine_rows(const CombineArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { combine_tokens<T>(a, begin, end); });
}

PIMOE_CPU_CLONES void combine_rows_backward(const CombineArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { combine_backward_tokens<T>(a, begin, end); });
}

}  // namespace pimoe::cpu
