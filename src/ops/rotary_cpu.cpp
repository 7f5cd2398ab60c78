#include "ops/cpu_math.h"

#include <cstring>

namespace pimoe::cpu {
namespace {

/// A row here is one position of one sequence: all its heads.
template <class T>
PIMOE_CPU_INLINE void turn_rows(const RotaryArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  const int64_t half = a.half_width;
  const int64_t row_width = a.heads * 2 * half;
  const int64_t rotated_width = a.rotated_heads * 2 * half;
  const A direction = a.backward ? A(-1) : A(1);
  for (int64_t row = begin; row < end; ++row) {
    const T* in = static_cast<const T*>(a.input) + row * row_width;
    T* out = static_cast<T*>(a.output) + row * row_width;
    const A* __restrict cosine = static_cast<const A*>(a.cosine) + row % a.positions * half;
    const A* __restrict sine = static_cast<const A*>(a.sine) + row % a.positions * half;
    for (int64_t head = 0; head < rotated_width; head += 2 * half) {
      const T* __restrict x = in + head;
      T* __restrict y = out + head;
      PIMOE_CPU_NO_OVERLAP
      for (int64_t i = 0; i < half; ++i) {
        const A first = load(x[i]);
        const A second = load(x[i + half]);
        const A turn = direction * sine[i];
        store(&y[i], first * cosine[i] - second * turn);
        store(&y[i + half], second * cosine[i] + first * turn);
      }
    }
    std::memcpy(out + rotated_width, in + rotated_width, static_cast<size_t>(row_width - rotated_width) * sizeof(T));
  }
}

}  // namespace

PIMOE_CPU_CLONES void rotary(const RotaryArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { turn_rows<T>(a, begin, end); });
}

}  // namespace pimoe::cpu
