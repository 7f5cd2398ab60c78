#include "ops/cpu_math.h"

#include <algorithm>

namespace pimoe::cpu {
namespace {

template <class T, class A>
PIMOE_CPU_INLINE void turn_heads(const T* in, T* out, int64_t heads, int64_t half, const A* cosine, const A* sine, A direction) {
  for (int64_t head = 0; head < heads; ++head) {
    const T* __restrict x = in + head * 2 * half;
    T* __restrict y = out + head * 2 * half;
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < half; ++i) {
      const A first = load(x[i]);
      const A second = load(x[i + half]);
      const A turn = direction * sine[i];
      store(&y[i], first * cosine[i] - second * turn);
      store(&y[i + half], second * cosine[i] + first * turn);
    }
  }
}

/// A row here is one position of one sequence: all its heads.
template <class T>
PIMOE_CPU_INLINE void turn_rows(const RotaryArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  const int64_t half = a.half_width;
  const int64_t width = 2 * half;
  const A direction = a.backward ? A(-1) : A(1);
  for (int64_t row = begin; row < end; ++row) {
    T* queries = static_cast<T*>(a.output) + row * (a.queries + 2 * a.kv_heads) * width;
    T* keys = queries + a.queries * width;
    T* values = keys + a.kv_heads * width;
    const A* __restrict cosine = static_cast<const A*>(a.cosine) + row % a.positions * half;
    const A* __restrict sine = static_cast<const A*>(a.sine) + row % a.positions * half;
    turn_heads(heads_of_row<T>(a.input.queries, row, a.positions), queries, a.queries, half, cosine, sine, direction);
    turn_heads(heads_of_row<T>(a.input.keys, row, a.positions), keys, a.kv_heads, half, cosine, sine, direction);
    std::copy_n(heads_of_row<T>(a.input.values, row, a.positions), a.kv_heads * width, values);
  }
}

}  // namespace

PIMOE_CPU_CLONES void rotary(const RotaryArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { turn_rows<T>(a, begin, end); });
}

}  // namespace pimoe::cpu
