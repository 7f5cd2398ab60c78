#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

/// A sum that is not rounded together with a product before it: the bits are those of two operations.
__device__ inline float sum_apart(float left, float right) { return __fadd_rn(left, right); }
__device__ inline double sum_apart(double left, double right) { return __dadd_rn(left, right); }

/// One warp for each row, which stays in its registers where it has at most kHeld packs for a lane; else it is read again.
/// @tparam N  numbers of a pack
template <class T, int N, int kHeld, class A = Arithmetic<T>>
__global__ void forward(RmsNormArguments a, int64_t rows) {
  const int64_t row = grid_row();
  if (row >= rows) return;
  const T* x = static_cast<const T*>(a.input) + row * a.width;
  const T* update = a.update == nullptr ? nullptr : static_cast<const T*>(a.update) + row * a.width;
  T* sum = static_cast<T*>(a.sum) + row * a.width;
  const A* weight = static_cast<const A*>(a.weight);
  Pack<T, N> held[kHeld > 0 ? kHeld : 1];
  A squares = 0;
  const auto read = [&](int64_t column) {
    auto pack = load_pack<T, N>(x + column);
    if (update != nullptr) {
      const auto more = load_pack<T, N>(update + column);
      for (int i = 0; i < N; ++i) store(&pack.values[i], load(pack.values[i]) + load(more.values[i]));
      store_pack(sum + column, pack);
    }
    for (int i = 0; i < N; ++i) squares += load(pack.values[i]) * load(pack.values[i]);
    return pack;
  };
  if constexpr (kHeld > 0) {
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      const int64_t column = (p * 32 + threadIdx.x) * N;
      if (column < a.width) held[p] = read(column);
    }
  } else {
    for (int64_t column = threadIdx.x * N; column < a.width; column += 32 * N) read(column);
  }
  const A inverse = A(1) / sqrt(warp_sum(squares) / static_cast<A>(a.width) + static_cast<A>(a.epsilon));
  if (threadIdx.x == 0) static_cast<A*>(a.inverse_rms)[row] = inverse;
  const auto write = [&](int64_t column, const Pack<T, N>& pack) {
    const auto w = load_pack<A, N>(weight + column);
    Pack<T, N> y;
    for (int i = 0; i < N; ++i) store(&y.values[i], load(pack.values[i]) * inverse * w.values[i]);
    store_pack(static_cast<T*>(a.output) + row * a.width + column, y);
  };
  if constexpr (kHeld > 0) {
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      const int64_t column = (p * 32 + threadIdx.x) * N;
      if (column < a.width) write(column, held[p]);
    }
  } else {
    const T* from = update == nullptr ? x : sum;  // a lane's own columns
    for (int64_t column = threadIdx.x * N; column < a.width; column += 32 * N) write(column, load_pack<T, N>(from + column));
  }
}

/// With n = x r, r = 1 / rms: dx = r (w dy - n mean(w dy n)), rounded, and grad_sum. As forward.
template <class T, int N, int kHeld, class A = Arithmetic<T>>
__global__ void input_gradient(RmsNormArguments a, int64_t rows) {
  const int64_t row = grid_row();
  if (row >= rows) return;
  const T* x = static_cast<const T*>(a.input) + row * a.width;
  const T* dy = static_cast<const T*>(a.grad_output) + row * a.width;
  const T* beside = a.grad_sum == nullptr ? nullptr : static_cast<const T*>(a.grad_sum) + row * a.width;
  const A* weight = static_cast<const A*>(a.weight);
  const A inverse = static_cast<const A*>(a.inverse_rms)[row];
  struct Packs {
    Pack<T, N> x, dy;
  };
  Packs held[kHeld > 0 ? kHeld : 1];
  A dot = 0;
  const auto read = [&](int64_t column) {
    const Packs packs{load_pack<T, N>(x + column), load_pack<T, N>(dy + column)};
    const auto w = load_pack<A, N>(weight + column);
    for (int i = 0; i < N; ++i) dot += load(packs.dy.values[i]) * w.values[i] * load(packs.x.values[i]);
    return packs;
  };
  if constexpr (kHeld > 0) {
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      const int64_t column = (p * 32 + threadIdx.x) * N;
      if (column < a.width) held[p] = read(column);
    }
  } else {
    for (int64_t column = threadIdx.x * N; column < a.width; column += 32 * N) read(column);
  }
  const A pull = warp_sum(dot) * inverse * inverse / static_cast<A>(a.width);
  const auto write = [&](int64_t column, const Packs& packs) {
    const auto w = load_pack<A, N>(weight + column);
    Pack<T, N> dx;
    for (int i = 0; i < N; ++i) {
      store(&dx.values[i], inverse * (load(packs.dy.values[i]) * w.values[i] - load(packs.x.values[i]) * pull));
    }
    if (beside != nullptr) {
      const auto more = load_pack<T, N>(beside + column);
      for (int i = 0; i < N; ++i) store(&dx.values[i], sum_apart(load(dx.values[i]), load(more.values[i])));
    }
    store_pack(static_cast<T*>(a.grad_input) + row * a.width + column, dx);
  };
  if constexpr (kHeld > 0) {
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      const int64_t column = (p * 32 + threadIdx.x) * N;
      if (column < a.width) write(column, held[p]);
    }
  } else {
    for (int64_t column = threadIdx.x * N; column < a.width; column += 32 * N) {
      write(column, {load_pack<T, N>(x + column), load_pack<T, N>(dy + column)});
    }
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

/// Packs of a row that a lane holds, at most.
template <class T>
int held_packs(const RmsNormArguments& a) {
  const int64_t packs = (a.width + 32 * kPack<T> - 1) / (32 * kPack<T>);
  return packs <= 8 ? 8 : packs <= 16 ? 16 : 0;
}

struct Forward {
  template <class T>
  static void run(const RmsNormArguments& a, int64_t rows) {
    constexpr int N = kPack<T>;
    const RowGrid grid = warp_grid(rows);
    const int held = held_packs<T>(a);
    const bool packed = packs_fit<T>(a.width, a.input, a.update, a.sum, a.weight, a.output);
    const auto kernel = !packed ? forward<T, 1, 0> : held == 8 ? forward<T, N, 8> : held == 16 ? forward<T, N, 16> : forward<T, N, 0>;
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(a, rows);
    check_launch("rms_norm");
  }
};

struct Backward {
  template <class T>
  static void run(const RmsNormArguments& a, int64_t rows) {
    using A = Arithmetic<T>;
    constexpr int N = kPack<T>;
    const auto stream = c10::cuda::getCurrentCUDAStream();
    const bool packed = packs_fit<T>(a.width, a.input, a.weight, a.grad_output, a.grad_input, a.grad_sum);
    const auto* input = static_cast<const T*>(a.input);
    const auto* grad_output = static_cast<const T*>(a.grad_output);
    const auto* inverse_rms = static_cast<const A*>(a.inverse_rms);
    if (a.grad_input != nullptr) {
      const RowGrid grid = warp_grid(rows);
      const int held = held_packs<T>(a);
      const auto kernel = !packed      ? input_gradient<T, 1, 0>
                          : held == 8  ? input_gradient<T, N, 8>
                          : held == 16 ? input_gradient<T, N, 16>
                                       : input_gradient<T, N, 0>;
      kernel<<<grid.blocks, grid.threads, 0, stream>>>(a, rows);
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
