#include "ops/cpu_math.h"

#include <algorithm>

namespace pimoe::cpu {
namespace {

/// A row here is one position of one sequence: all its heads.
template <class T>
PIMOE_CPU_INLINE void forward_rows(const NormedRotaryArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  const int64_t half = a.half_width;
  const int64_t width = 2 * half;
  const int64_t normed = a.queries + a.kv_heads;
  const int64_t all = normed + a.kv_heads;
  for (int64_t row = begin; row < end; ++row) {
    const T* in = static_cast<const T*>(a.input) + row * all * width;
    T* out = static_cast<T*>(a.output) + row * all * width;
    const A* __restrict cosine = static_cast<const A*>(a.cosine) + row % a.positions * half;
    const A* __restrict sine = static_cast<const A*>(a.sine) + row % a.positions * half;
    for (int64_t head = 0; head < normed; ++head) {
      const T* __restrict x = in + head * width;
      T* __restrict y = out + head * width;
      const A* __restrict weight = static_cast<const A*>(head < a.queries ? a.query_weight : a.key_weight);
      const A squares = sum_of<A>(
          width, [&](int64_t i) __attribute__((always_inline)) { return load(x[i]) * load(x[i]); });
      const A inverse = A(1) / std::sqrt(squares / static_cast<A>(width) + static_cast<A>(a.epsilon));
      static_cast<A*>(a.inverse_rms)[row * normed + head] = inverse;
      PIMOE_CPU_NO_OVERLAP
      for (int64_t i = 0; i < half; ++i) {
        const A first = load(x[i]) * inverse * weight[i];
        const A second = load(x[i + half]) * inverse * weight[i + half];
        store(&y[i], first * cosine[i] - second * sine[i]);
        store(&y[i + half], second * cosine[i] + first * sine[i]);
      }
    }
    std::copy_n(in + normed * width, a.kv_heads * width, out + normed * width);
  }
}

/// With n = x r, r = 1 / rms, and dy the gradient turned back: dx = r (w dy - n mean(w dy n)), dw = sum over heads and rows of dy n.
template <class T>
PIMOE_CPU_INLINE void backward_rows(const NormedRotaryArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  const int64_t half = a.half_width;
  const int64_t width = 2 * half;
  const int64_t normed = a.queries + a.kv_heads;
  const int64_t all = normed + a.kv_heads;
  A* partial = static_cast<A*>(a.grad_weight_partial) + begin / kRmsNormChunk * 2 * width;
  for (int64_t i = 0; i < 2 * width; ++i) partial[i] = 0;
  for (int64_t row = begin; row < end; ++row) {
    const T* in = static_cast<const T*>(a.input) + row * all * width;
    T* out = static_cast<T*>(a.grad_input) + row * all * width;
    const T* of_queries = heads_of_row<T>(a.grad_output.queries, row, a.positions);
    const T* of_keys = heads_of_row<T>(a.grad_output.keys, row, a.positions);
    const A* __restrict cosine = static_cast<const A*>(a.cosine) + row % a.positions * half;
    const A* __restrict sine = static_cast<const A*>(a.sine) + row % a.positions * half;
    for (int64_t head = 0; head < normed; ++head) {
      const T* __restrict x = in + head * width;
      const T* __restrict turned = head < a.queries ? of_queries + head * width : of_keys + (head - a.queries) * width;
      T* __restrict dx = out + head * width;
      const A* __restrict weight = static_cast<const A*>(head < a.queries ? a.query_weight : a.key_weight);
      A* __restrict sums = head < a.queries ? partial : partial + width;
      const A inverse = static_cast<const A*>(a.inverse_rms)[row * normed + head];
      const auto of_first = [&](int64_t i) __attribute__((always_inline)) {
        return load(turned[i]) * cosine[i] + load(turned[i + half]) * sine[i];
      };
      const auto of_second = [&](int64_t i) __attribute__((always_inline)) {
        return load(turned[i + half]) * cosine[i] - load(turned[i]) * sine[i];
      };
      const A dot = sum_of<A>(
          half, [&](int64_t i) __attribute__((always_inline)) {
            return of_first(i) * weight[i] * load(x[i]) + of_second(i) * weight[i + half] * load(x[i + half]);
          });
      const A pull = dot * inverse * inverse / static_cast<A>(width);
      PIMOE_CPU_NO_OVERLAP
      for (int64_t i = 0; i < half; ++i) {
        const A first = of_first(i);
        const A second = of_second(i);
        sums[i] += first * (load(x[i]) * inverse);
        sums[i + half] += second * (load(x[i + half]) * inverse);
        store(&dx[i], inverse * (first * weight[i] - load(x[i]) * pull));
        store(&dx[i + half], inverse * (second * weight[i + half] - load(x[i + half]) * pull));
      }
    }
    std::copy_n(heads_of_row<T>(a.grad_output.values, row, a.positions), a.kv_heads * width, out + normed * width);
  }
}

}  // namespace

PIMOE_CPU_CLONES void normed_rotary(const NormedRotaryArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { forward_rows<T>(a, begin, end); });
}

PIMOE_CPU_CLONES void normed_rotary_backward(const NormedRotaryArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { backward_rows<T>(a, begin, end); });
}

}  // namespace pimoe::cpu
