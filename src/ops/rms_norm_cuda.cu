#include "ops/cuda_math.cuh"

#include <algorithm>

namespace pimoe::cuda {
namespace {

constexpr int kMostRowThreads = 1024;

/// A sum that is not rounded together with a product before it: the bits are those of two operations.
__device__ inline float sum_apart(float left, float right) { return __fadd_rn(left, right); }
__device__ inline double sum_apart(double left, double right) { return __dadd_rn(left, right); }

/// The same sum in every thread of the block, added in the same order.
template <class A>
__device__ A block_sum(A value) {
  __shared__ A of_warps[32];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  A sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += of_warps[warp];
  return sum;
}

/// One block for each row, if it can with a pack for each thread, which then stays in registers; else packs are read again.
/// @tparam N  numbers of a pack
template <class T, int N, class A = Arithmetic<T>>
__global__ __launch_bounds__(kMostRowThreads) void forward(RmsNormArguments a) {
  const int64_t begin = blockIdx.x * a.width;
  const T* x = static_cast<const T*>(a.input) + begin;
  const T* update = a.update == nullptr ? nullptr : static_cast<const T*>(a.update) + begin;
  T* sum = static_cast<T*>(a.sum) + begin;
  const A* weight = static_cast<const A*>(a.weight);
  const int64_t stride = static_cast<int64_t>(blockDim.x) * N;
  Pack<T, N> pack;
  A squares = 0;
  for (int64_t column = threadIdx.x * N; column < a.width; column += stride) {
    pack = load_pack<T, N>(x + column);
    if (update != nullptr) {
      const auto more = load_pack<T, N>(update + column);
      for (int i = 0; i < N; ++i) store(&pack.values[i], load(pack.values[i]) + load(more.values[i]));
      store_pack(sum + column, pack);
    }
    for (int i = 0; i < N; ++i) squares += load(pack.values[i]) * load(pack.values[i]);
  }
  const A inverse = A(1) / sqrt(block_sum(squares) / static_cast<A>(a.width) + static_cast<A>(a.epsilon));
  if (threadIdx.x == 0) static_cast<A*>(a.inverse_rms)[blockIdx.x] = inverse;
  for (int64_t column = threadIdx.x * N; column < a.width; column += stride) {
    if (stride < a.width) pack = load_pack<T, N>((update == nullptr ? x : sum) + column);  // a thread's own columns
    const auto w = load_pack<A, N>(weight + column);
    Pack<T, N> y;
    for (int i = 0; i < N; ++i) store(&y.values[i], load(pack.values[i]) * inverse * w.values[i]);
    store_pack(static_cast<T*>(a.output) + begin + column, y);
  }
}

/// With n = x r, r = 1 / rms: dx = r (w dy - n mean(w dy n)), rounded, and grad_sum. As forward.
template <class T, int N, class A = Arithmetic<T>>
__global__ __launch_bounds__(kMostRowThreads) void input_gradient(RmsNormArguments a) {
  const int64_t begin = blockIdx.x * a.width;
  const T* x = static_cast<const T*>(a.input) + begin;
  const T* dy = static_cast<const T*>(a.grad_output) + begin;
  const T* beside = a.grad_sum == nullptr ? nullptr : static_cast<const T*>(a.grad_sum) + begin;
  const A* weight = static_cast<const A*>(a.weight);
  const A inverse = static_cast<const A*>(a.inverse_rms)[blockIdx.x];
  const int64_t stride = static_cast<int64_t>(blockDim.x) * N;
  Pack<T, N> xs, dys;
  A dot = 0;
  for (int64_t column = threadIdx.x * N; column < a.width; column += stride) {
    xs = load_pack<T, N>(x + column);
    dys = load_pack<T, N>(dy + column);
    const auto w = load_pack<A, N>(weight + column);
    for (int i = 0; i < N; ++i) dot += load(dys.values[i]) * w.values[i] * load(xs.values[i]);
  }
  const A pull = block_sum(dot) * inverse * inverse / static_cast<A>(a.width);
  for (int64_t column = threadIdx.x * N; column < a.width; column += stride) {
    if (stride < a.width) {
      xs = load_pack<T, N>(x + column);
      dys = load_pack<T, N>(dy + column);
    }
    const auto w = load_pack<A, N>(weight + column);
    Pack<T, N> dx;
    for (int i = 0; i < N; ++i) store(&dx.values[i], inverse * (load(dys.values[i]) * w.values[i] - load(xs.values[i]) * pull));
    if (beside != nullptr) {
      const auto more = load_pack<T, N>(beside + column);
      for (int i = 0; i < N; ++i) store(&dx.values[i], sum_apart(load(dx.values[i]), load(more.values[i])));
    }
    store_pack(static_cast<T*>(a.grad_input) + begin + column, dx);
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

/// Threads of a row's block: a pack for each, as far as there may be.
unsigned row_threads(int64_t width, int pack) {
  return static_cast<unsigned>(std::min<int64_t>(kMostRowThreads, (width + 32 * pack - 1) / (32 * pack) * 32));
}

struct Forward {
  template <class T>
  static void run(const RmsNormArguments& a, int64_t rows) {
    const bool packed = packs_fit<T>(a.width, a.input, a.update, a.sum, a.weight, a.output);
    const auto kernel = packed ? forward<T, kPack<T>> : forward<T, 1>;
    kernel<<<static_cast<unsigned>(rows), row_threads(a.width, packed ? kPack<T> : 1), 0, c10::cuda::getCurrentCUDAStream()>>>(a);
    check_launch("rms_norm");
  }
};

struct Backward {
  template <class T>
  static void run(const RmsNormArguments& a, int64_t rows) {
    using A = Arithmetic<T>;
    const auto stream = c10::cuda::getCurrentCUDAStream();
    const bool packed = packs_fit<T>(a.width, a.input, a.weight, a.grad_output, a.grad_input, a.grad_sum);
    const auto* input = static_cast<const T*>(a.input);
    const auto* grad_output = static_cast<const T*>(a.grad_output);
    const auto* inverse_rms = static_cast<const A*>(a.inverse_rms);
    if (a.grad_input != nullptr) {
      const auto kernel = packed ? input_gradient<T, kPack<T>> : input_gradient<T, 1>;
      kernel<<<static_cast<unsigned>(rows), row_threads(a.width, packed ? kPack<T> : 1), 0, stream>>>(a);
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
