#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

template <class T, int N>
__global__ void forward(const T* gate_up, T* hidden, int64_t width, int64_t rows) {
  using A = Arithmetic<T>;
  const int64_t row = grid_row();
  if (row >= rows) return;
  const T* gate = gate_up + row * 2 * width;
  for (int64_t column = threadIdx.x * N; column < width; column += blockDim.x * N) {
    const auto g = load_pack<T, N>(gate + column);
    const auto u = load_pack<T, N>(gate + width + column);
    Pack<T, N> h;
    for (int i = 0; i < N; ++i) {
      const A x = load(g.values[i]);
      store(&h.values[i], x / (A(1) + exponential(-x)) * load(u.values[i]));
    }
    store_pack(hidden + row * width + column, h);
  }
}

/// silu'(g) = s (1 + g (1 - s)), s the logistic function.
template <class T, int N>
__global__ void backward(const T* gate_up, const T* grad_hidden, T* grad_gate_up, T* hidden, int64_t width, int64_t rows) {
  using A = Arithmetic<T>;
  const int64_t row = grid_row();
  if (row >= rows) return;
  const T* gate = gate_up + row * 2 * width;
  T* grad_gate = grad_gate_up + row * 2 * width;
  for (int64_t column = threadIdx.x * N; column < width; column += blockDim.x * N) {
    const auto g = load_pack<T, N>(gate + column);
    const auto u = load_pack<T, N>(gate + width + column);
    const auto d = load_pack<T, N>(grad_hidden + row * width + column);
    Pack<T, N> dg, du, h;
    for (int i = 0; i < N; ++i) {
      const A x = load(g.values[i]);
      const A up = load(u.values[i]);
      const A grad = load(d.values[i]);
      const A s = A(1) / (A(1) + exponential(-x));
      const A silu = x * s;
      store(&dg.values[i], grad * up * (s + silu * (A(1) - s)));
      store(&du.values[i], grad * silu);
      // As in `forward`, so that both give the same bits.
      store(&h.values[i], x / (A(1) + exponential(-x)) * up);
    }
    store_pack(grad_gate + column, dg);
    store_pack(grad_gate + width + column, du);
    if (hidden != nullptr) store_pack(hidden + row * width + column, h);
  }
}

struct Forward {
  template <class T>
  static void run(const SwigluArguments& a, int64_t rows) {
    const bool packed = packs_fit<T>(a.width, a.gate_up, a.hidden);
    const RowGrid grid = row_grid(rows, packed ? a.width / kPack<T> : a.width);
    const auto kernel = packed ? forward<T, kPack<T>> : forward<T, 1>;
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(static_cast<const T*>(a.gate_up), static_cast<T*>(a.hidden),
                                                                                a.width, rows);
    check_launch("swiglu");
  }
};

struct Backward {
  template <class T>
  static void run(const SwigluArguments& a, int64_t rows) {
    const bool packed = packs_fit<T>(a.width, a.gate_up, a.grad_hidden, a.grad_gate_up, a.hidden);
    const RowGrid grid = row_grid(rows, packed ? a.width / kPack<T> : a.width);
    const auto kernel = packed ? backward<T, kPack<T>> : backward<T, 1>;
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        static_cast<const T*>(a.gate_up), static_cast<const T*>(a.grad_hidden), static_cast<T*>(a.grad_gate_up), static_cast<T*>(a.hidden),
        a.width, rows);
    check_launch("swiglu_backward");
  }
};

}  // namespace

void swiglu(const SwigluArguments& arguments, int64_t rows) { by_dtype<Forward>(arguments, rows); }
void swiglu_backward(const SwigluArguments& arguments, int64_t rows) { by_dtype<Backward>(arguments, rows); }

}  // namespace pimoe::cuda
