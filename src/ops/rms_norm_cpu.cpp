#include "ops/cpu_math.h"

namespace pimoe::cpu {
namespace {

template <class T>
PIMOE_CPU_INLINE void forward_rows(const RmsNormArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  const A* __restrict weight = static_cast<const A*>(a.weight);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(a.input) + row * a.width;
    T* __restrict y = static_cast<T*>(a.output) + row * a.width;
    if (a.update != nullptr) {
      const T* __restrict update = static_cast<const T*>(a.update) + row * a.width;
      T* __restrict sum = static_cast<T*>(a.sum) + row * a.width;
      PIMOE_CPU_NO_OVERLAP
      for (int64_t i = 0; i < a.width; ++i) store(&sum[i], load(x[i]) + load(update[i]));
      x = sum;
    }
    const A squares = sum_of<A>(
        a.width, [&](int64_t i) __attribute__((always_inline)) { return load(x[i]) * load(x[i]); });
    const A inverse = A(1) / std::sqrt(squares / static_cast<A>(a.width) + static_cast<A>(a.epsilon));
    static_cast<A*>(a.inverse_rms)[row] = inverse;
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < a.width; ++i) store(&y[i], load(x[i]) * inverse * weight[i]);
  }
}

/// With n = x r, r = 1 / rms: dx = r (w dy - n mean(w dy n)), dw = sum over rows of dy n.
template <class T>
PIMOE_CPU_INLINE void backward_rows(const RmsNormArguments& a, int64_t begin, int64_t end) {
  using A = Arithmetic<T>;
  const A* __restrict weight = static_cast<const A*>(a.weight);
  A* __restrict partial = nullptr;
  if (a.grad_weight_partial != nullptr) {
    partial = static_cast<A*>(a.grad_weight_partial) + begin / kRmsNormChunk * a.width;
    for (int64_t i = 0; i < a.width; ++i) partial[i] = 0;
  }
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict x = static_cast<const T*>(a.input) + row * a.width;
    const T* __restrict dy = static_cast<const T*>(a.grad_output) + row * a.width;
    const A inverse = static_cast<const A*>(a.inverse_rms)[row];
    if (partial != nullptr) {
      PIMOE_CPU_NO_OVERLAP
      for (int64_t i = 0; i < a.width; ++i) partial[i] += load(dy[i]) * (load(x[i]) * inverse);
    }
    if (a.grad_input == nullptr) continue;
    T* __restrict dx = static_cast<T*>(a.grad_input) + row * a.width;
    const A dot = sum_of<A>(
        a.width, [&](int64_t i) __attribute__((always_inline)) { return load(dy[i]) * weight[i] * load(x[i]); });
    const A pull = dot * inverse * inverse / static_cast<A>(a.width);
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < a.width; ++i) store(&dx[i], inverse * (load(dy[i]) * weight[i] - load(x[i]) * pull));
    if (a.grad_sum == nullptr) continue;
    // Apart, so that a product and this sum are not rounded as one: the bits are those of two operations.
    const T* __restrict beside = static_cast<const T*>(a.grad_sum) + row * a.width;
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < a.width; ++i) store(&dx[i], load(dx[i]) + load(beside[i]));
  }
}

template <class A>
void add_chunks(const RmsNormArguments& a, int64_t chunks, A* sum) {
  const A* partial = static_cast<const A*>(a.grad_weight_partial);
  for (int64_t i = 0; i < a.width; ++i) sum[i] = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t i = 0; i < a.width; ++i) sum[i] += partial[chunk * a.width + i];
  }
}

}  // namespace

void sum_rms_norm_partial(const RmsNormArguments& a, int64_t chunks, void* sum) {
  a.dtype == Dtype::kFloat64 ? add_chunks(a, chunks, static_cast<double*>(sum)) : add_chunks(a, chunks, static_cast<float*>(sum));
}

PIMOE_CPU_CLONES void rms_norm(const RmsNormArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { forward_rows<T>(a, begin, end); });
}

PIMOE_CPU_CLONES void rms_norm_backward(const RmsNormArguments& a, int64_t begin, int64_t end) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { backward_rows<T>(a, begin, end); });
}

}  // namespace pimoe::cpu
