#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

/// Four packs of a thread are on their way at a time; their squares are added in the arithmetic type, then to the thread's float64 sum.
template <class A>
__global__ __launch_bounds__(kThreads) void squares(const A* values, int64_t count, double* parts) {
  constexpr int N = kPack<A>;
  constexpr int kAtOnce = 4;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t packs = count / N;
  double sum = 0.0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; first < packs; first += kAtOnce * stride) {
    Pack<A, N> loaded[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      loaded[i] = {};
      if (first + i * stride < packs) loaded[i] = load_pack<A, N>(values + (first + i * stride) * N);
    }
    A part = 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) part += loaded[i].values[j] * loaded[i].values[j];
    }
    sum += part;
  }
  if (blockIdx.x == 0 && threadIdx.x < count % N) {
    const A value = values[packs * N + threadIdx.x];
    sum += value * value;
  }
  __shared__ double of_warps[kThreads / 32];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kThreads / 32; ++warp) sum += of_warps[warp];
  parts[blockIdx.x] = sum;
}

template <class A>
void start(const SquaresArguments& a) {
  squares<A><<<static_cast<unsigned>(kSquaresBlocks), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(static_cast<const A*>(a.values),
                                                                                                        a.count, a.parts);
  check_launch("sum_of_squares");
}

}  // namespace

void sum_of_squares(const SquaresArguments& a) { a.dtype == Dtype::kFloat64 ? start<double>(a) : start<float>(a); }

}  // namespace pimoe::cuda
