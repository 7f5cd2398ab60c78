#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

template <class T, int N, class A = Arithmetic<T>>
__global__ void forward(const T* input, const A* weight, A* inverse_rms, T* output, int64_t width, A epsilon, int64_t rows) {
  const int64_t row = grid_row();
  if (row >= rows) return;
  const T* x = input + row * width;
  A squares = 0;
  for (int64_t column = threadIdx.x * N; column < width; column += 32 * N) {
    const auto pack = load_pack<T, N>(x + column);
    for (int i = 0; i < N; ++i) squares += load(pack.values[i]) * load(pack.values[i]);
  }
  const A inverse = A(1) / sqrt(warp_sum(squares) / static_cast<A>(width) + epsilon);
  if (threadIdx.x == 0) inverse_rms[row] = inverse;
  for (int64_t column = threadIdx.x * N; column < width; column += 32 * N) {
    const auto pack = load_pack<T, N>(x + column);
    const auto w = load_pack<A, N>(weight + column);
    Pack<T, N> y;
    for (int i = 0; i < N; ++i) store(&y.values[i], load(pack.values[i]) * inverse * w.values[i]);
    store_pack(output + row * width + column, y);
  }
}

/// With n = x r, r = 1 / rms: dx = r (w dy - n mean(w dy n)).
template <class T, int N, class A = Arithmetic<T>>
__global__ void input_gradient(const T* input, const A* weight, const A* inverse_rms, const T* grad_output, T* grad_input, int64_t width,
                               int64_t rows) {
  const int64_t row = grid_row();
  if (row >= rows) return;
  const T* x = input + row * width;
  const T* dy = grad_output + row * width;
  const A inverse = inverse_rms[row];
  A dot = 0;
  for (int64_t column = threadIdx.x * N; column < width; column += 32 * N) {
    const auto xs = load_pack<T, N>(x + column);
    const auto dys = load_pack<T, N>(dy + column);
    const auto ws = load_pack<A, N>(weight + column);
    for (int i = 0; i < N; ++i) dot += load(dys.values[i]) * ws.values[i] * load(xs.values[i]);
  }
  const A pull = warp_sum(dot) * inverse * inverse / static_cast<A>(width);
  for (int64_t column = threadIdx.x * N; column < width; column += 32 * N) {
    const auto xs = load_pack<T, N>(x + column);
    const auto dys = load_pack<T, N>(dy + column);
    const auto ws = load_pack<A, N>(weight + column);
    Pack<T, N> dx;
    for (int i = 0; i < N; ++i) {
      store(&dx.values[i], inverse * (load(dys.values[i]) * ws.values[i] - load(xs.values[i]) * pull));
    }
    store_pack(grad_input + row * width + column, dx);
  }
}

/// A block adds up one chunk of rows (blockIdx.x) for 32 N columns (blockIdx.y); its warps take rows in turn and are added in their order.
template <class T, int N, class A = Arithmetic<T>>
__global__ void weight_gradient(const T* input, const A* inverse_rms, const T* grad_output, A* partial, int64_t width, int64_t rows) {
  __shared__ A sums[kThreads / 32][32 * N];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRmsNormChunk;
  const int64_t last_row = min(rows, first_row + kRmsNormChunk);
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * 32 * N;
  const int64_t column = first_column + threadIdx.x * N;
  A sum[N] = {};
  if (column < width) {
    for (int64_t row = first_row + threadIdx.y; row < last_row; row += blockDim.y) {
      const auto xs = load_pack<T, N>(input + row * width + column);
      const auto dys = load_pack<T, N>(grad_output + row * width + column);
      const A inverse = inverse_rms[row];
      for (int i = 0; i < N; ++i) sum[i] += load(dys.values[i]) * (load(xs.values[i]) * inverse);
    }
  }
  for (int i = 0; i < N; ++i) sums[threadIdx.y][threadIdx.x * N + i] = sum[i];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.y * 32 + threadIdx.x); i < 32 * N; i += kThreads) {
    if (first_column + i >= width) continue;
    A total = 0;
    for (int warp = 0; warp < kThreads / 32; ++warp) total += sums[warp][i];
    partial[blockIdx.x * width + first_column + i] = total;
  }
}

struct Forward {
  template <class T>
  static void run(const RmsNormArguments& a, int64_t rows) {
    using A = Arithmetic<T>;
    const RowGrid grid = warp_grid(rows);
    const auto kernel = packs_fit<T>(a.width, a.input, a.weight, a.output) ? forward<T, kPack<T>> : forward<T, 1>;
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        static_cast<const T*>(a.input), static_cast<const A*>(a.weight), static_cast<A*>(a.inverse_rms), static_cast<T*>(a.output), a.width,
        static_cast<A>(a.epsilon), rows);
    check_launch("rms_norm");
  }
};

struct Backward {
  template <class T>
  static void run(const RmsNormArguments& a, int64_t rows) {
    using A = Arithmetic<T>;
    const auto stream = c10::cuda::getCurrentCUDAStream();
    const bool packed = packs_fit<T>(a.width, a.input, a.weight, a.grad_output, a.grad_input);
    const auto* input = static_cast<const T*>(a.input);
    const auto* grad_output = static_cast<const T*>(a.grad_output);
    const auto* inverse_rms = static_cast<const A*>(a.inverse_rms);
    if (a.grad_input != nullptr) {
      const RowGrid grid = warp_grid(rows);
      const auto kernel = packed ? input_gradient<T, kPack<T>> : input_gradient<T, 1>;
      kernel<<<grid.blocks, grid.threads, 0, stream>>>(input, static_cast<const A*>(a.weight), inverse_rms, grad_output,
                                                       static_cast<T*>(a.grad_input), a.width, rows);
      check_launch("rms_norm input gradient");
    }
    if (a.grad_weight_partial != nullptr) {
      const int64_t columns = 32 * (packed ? kPack<T> : 1);
      const dim3 blocks(static_cast<unsigned>((rows + kRmsNormChunk - 1) / kRmsNormChunk),
                        static_cast<unsigned>((a.width + columns - 1) / columns));
      const auto kernel = packed ? weight_gradient<T, kPack<T>> : weight_gradient<T, 1>;
      kernel<<<blocks, dim3(32, kThreads / 32), 0, stream>>>(input, inverse_rms, grad_output, static_cast<A*>(a.grad_weight_partial),
                                                             a.width, rows);
      check_launch("rms_norm weight gradient");
    }
  }
};

}  // namespace

void rms_norm(const RmsNormArguments& arguments, int64_t rows) { by_dtype<Forward>(arguments, rows); }
void rms_norm_backward(const RmsNormArguments& arguments, int64_t rows) { by_dtype<Backward>(arguments, rows); }

}  // namespace pimoe::cuda
