#include "ops/cpu_math.h"

namespace pimoe::cpu {
namespace {

template <class T>
PIMOE_CPU_INLINE void forward_rows(const SwigluArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  const int64_t width = a.width;
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict gate = static_cast<const T*>(a.gate_up) + row * 2 * width;
    const T* __restrict up = gate + width;
    T* __restrict hidden = static_cast<T*>(a.hidden) + row * width;
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < width; ++i) {
      const A g = load(gate[i]);
      const A silu = g * (A(1) / (A(1) + exponential(-g)));
      store(&hidden[i], silu * load(up[i]));
    }
  }
}

/// silu'(g) = s (1 + g (1 - s)), s the logistic function. The hidden values come in the same pass, by forward_rows' operations and so its bits.
template <class T>
PIMOE_CPU_INLINE void backward_rows(const SwigluArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  const int64_t width = a.width;
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict gate = static_cast<const T*>(a.gate_up) + row * 2 * width;
    const T* __restrict up = gate + width;
    const T* __restrict grad = static_cast<const T*>(a.grad_hidden) + row * width;
    T* __restrict grad_gate = static_cast<T*>(a.grad_gate_up) + row * 2 * width;
    T* __restrict grad_up = grad_gate + width;
    T* __restrict hidden = static_cast<T*>(a.hidden) + row * width;
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < width; ++i) {
      const A g = load(gate[i]);
      const A u = load(up[i]);
      const A d = load(grad[i]);
      const A s = A(1) / (A(1) + exponential(-g));
      const A silu = g * s;
      store(&hidden[i], silu * u);
      store(&grad_gate[i], d * u * (s + silu * (A(1) - s)));
      store(&grad_up[i], d * silu);
    }
  }
}

}  // namespace

PIMOE_CPU_CLONES void swiglu(const SwigluArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { forward_rows<T>(a, begin, end); });
}

PIMOE_CPU_CLONES void swiglu_backward(const SwigluArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { backward_rows<T>(a, begin, end); });
}

}  // namespace pimoe::cpu
