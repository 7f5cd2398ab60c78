#include "ops/cuda_math.cuh"

#include <cooperative_groups.h>
#include <cuda_pipeline.h>

#include <algorithm>

namespace pimoe::cuda {
namespace {

/// e^x, for a result of type T: where that has 16 bits, two instructions, off by 5e-6 of it at most.
template <class T, class A>
__device__ A power(A x) {
  if constexpr (sizeof(T) == 2) return __expf(x);
  return exponential(x);
}

/// A largest value and the sum of e^(value - largest), of any part of a row.
template <class A>
struct Softmax {
  A largest;
  A sum;

  /// The sum as a part of one whose largest value is no smaller. Equal ones are told apart from their difference, which is NaN for infinities:
  /// a part without finite values adds nothing.
  __device__ A sum_below(A whole_largest) const { return largest == whole_largest ? sum : sum * exponential(largest - whole_largest); }
};

/// Never NaN: a NaN is found by the sum.
template <class A>
__device__ A larger(A left, A right) {
  return right > left ? right : left;
}

/// Of the packs of x[0, count) that this thread takes, several at a time: that many loads are under way.
template <class T, int N, class A>
__device__ Softmax<A> thread_softmax(const A* x, int count) {
  constexpr int kTogether = 4;
  Softmax<A> part{-INFINITY, 0};
  for (int first = static_cast<int>(threadIdx.x) * N; first < count; first += kTogether * kThreads * N) {
    A values[kTogether * N];
    for (int pack = 0; pack < kTogether; ++pack) {
      const int begin = first + pack * kThreads * N;
      for (int i = 0; i < N; ++i) values[pack * N + i] = -INFINITY;
      if (begin >= count) continue;
      const auto loaded = load_pack<A, N>(x + begin);
      for (int i = 0; i < N; ++i) values[pack * N + i] = loaded.values[i];
    }
    A largest = part.largest;
    for (const A value : values) largest = larger(largest, value);
    // Nothing but -infinity so far: exponentials of the values themselves are 0, as they should be.
    const A shift = largest == -INFINITY ? A(0) : largest;
    A sum = part.sum_below(largest);
    for (const A value : values) sum += power<T>(value - shift);
    part = {largest, sum};
  }
  return part;
}

/// Of `count` parts, added in their order. @param part  gives the Softmax of a number below count
template <class A, class Part>
__device__ Softmax<A> sum_of_parts(int count, const Part& part) {
  A largest = -INFINITY;
  for (int i = 0; i < count; ++i) largest = larger(largest, part(i).largest);
  A sum = 0;
  for (int i = 0; i < count; ++i) sum += part(i).sum_below(largest);
  return {largest, sum};
}

template <class A>
__device__ Softmax<A> block_softmax(const Softmax<A>& of_thread) {
  __shared__ Softmax<A> parts[kThreads / 32];
  A largest = of_thread.largest;
  for (int offset = 16; offset > 0; offset /= 2) largest = larger(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, offset));
  const A sum = warp_sum(of_thread.sum_below(largest));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = {largest, sum};
  __syncthreads();
  return sum_of_parts<A>(kThreads / 32, [](int warp) { return parts[warp]; });
}

/// `blocks` neighbours, a cluster where they are several, for each position; each takes `part` of its logits, a multiple of N. Held, they stay in
/// shared memory meanwhile, [part], and are read from the device's once. NaN and +infinity in a row make its loss and gradient NaN.
template <class T, int N, bool kHeld, class A = Arithmetic<T>>
__global__ void loss_row(const A* logits, const int64_t* targets, A* losses, T* grad_logits, int64_t vocabulary, int blocks, int64_t part) {
  const int64_t row = blockIdx.x / blocks;
  const int64_t begin = blockIdx.x % blocks * part;
  const int count = static_cast<int>(min(part, max(int64_t{0}, vocabulary - begin)));
  const int first = static_cast<int>(threadIdx.x) * N;
  const int64_t target = targets[row];
  T* grad = grad_logits + row * vocabulary + begin;
  if (target < 0) {
    if (threadIdx.x == 0 && begin == 0) losses[row] = 0;
    if (grad_logits == nullptr) return;
    Pack<T, N> zeros;
    for (int i = 0; i < N; ++i) store(&zeros.values[i], A(0));
    for (int i = first; i < count; i += kThreads * N) store_pack(grad + i, zeros);
    return;
  }
  const A* x = logits + row * vocabulary + begin;
  if constexpr (kHeld) {
    extern __shared__ __align__(16) char shared[];
    A* held = reinterpret_cast<A*>(shared);
    for (int i = first; i < count; i += kThreads * N) __pipeline_memcpy_async(held + i, x + i, N * sizeof(A));
    __pipeline_commit();
    __pipeline_wait_prior(0);
    x = held;
  }
  Softmax<A> softmax = block_softmax(thread_softmax<T, N>(x, count));
#if __CUDA_ARCH__ >= 900
  const auto cluster = cooperative_groups::this_cluster();
  __shared__ Softmax<A> of_block;
  if (blocks > 1) {
    if (threadIdx.x == 0) of_block = softmax;
    cluster.sync();
    softmax = sum_of_parts<A>(blocks, [&](int block) { return *cluster.map_shared_rank(&of_block, block); });
    cooperative_groups::cluster_group::barrier_arrive();
  }
#endif
  // A target past the vocabulary cannot be reported from here without waiting for the device: it becomes NaN instead of a stray read.
  const int at = target - begin < count ? static_cast<int>(max(int64_t{-1}, target - begin)) : -1;
  if (threadIdx.x == 0) {
    if (at >= 0) losses[row] = log(softmax.sum) + (softmax.largest - x[at]);
    if (begin == 0 && target >= vocabulary) losses[row] = A(NAN);
  }
  if (grad_logits != nullptr) {
    // grad may be logits: the loss above must be read before it is overwritten.
    __syncthreads();
    const A scale = A(1) / softmax.sum;
#pragma unroll 4
    for (int i = first; i < count; i += kThreads * N) {
      const auto values = load_pack<A, N>(x + i);
      Pack<T, N> out;
      for (int k = 0; k < N; ++k) {
        const A probability = power<T>(values.values[k] - softmax.largest) * scale;
        store(&out.values[k], i + k == at ? probability - A(1) : probability);
      }
      store_pack(grad + i, out);
    }
  }
#if __CUDA_ARCH__ >= 900
  // The others read this block's part of the sum: it must stay until they have.
  if (blocks > 1) cooperative_groups::cluster_group::barrier_wait();
#endif
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) return 0;
  return value;
}

/// @returns shared memory that a block may ask for beside what the kernel itself takes, and what rounding a part up adds
int shared_room() { return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - 1024; }

/// Blocks that hold a row together; 0 where they cannot.
int holding_blocks(int64_t row_bytes) {
  constexpr int64_t kPart = 56 << 10;  // four blocks fit into a processor of Hopper: one waits for memory, another computes
  const int most = device_attribute(cudaDevAttrClusterLaunch) != 0 ? 8 : 1;  // what every device with clusters takes
  int blocks = 1;
  while (blocks < most && row_bytes > kPart * blocks) blocks *= 2;
  return row_bytes <= static_cast<int64_t>(shared_room()) * blocks ? blocks : 0;
}

struct Loss {
  template <class T>
  static void run(const CrossEntropyArguments& a, int64_t tokens) {
    using A = Arithmetic<T>;
    const bool packed = packs_fit<A>(a.vocabulary, a.logits, a.grad_logits);
    const int width = packed ? kPack<A> : 1;
    // The loss alone reads a row once anyway.
    const int holding = a.grad_logits == nullptr ? 0 : holding_blocks(a.vocabulary * static_cast<int64_t>(sizeof(A)));
    const int blocks = std::max(1, holding);
    const int64_t part = ((a.vocabulary + blocks - 1) / blocks + width - 1) / width * width;

    const auto kernel = holding > 0 ? (packed ? loss_row<T, kPack<A>, true> : loss_row<T, 1, true>)
                                    : (packed ? loss_row<T, kPack<A>, false> : loss_row<T, 1, false>);
    cudaLaunchConfig_t launch{};
    launch.gridDim = dim3(static_cast<unsigned>(tokens * blocks));
    launch.blockDim = dim3(kThreads);
    launch.dynamicSmemBytes = holding > 0 ? static_cast<size_t>(part) * sizeof(A) : 0;
    launch.stream = c10::cuda::getCurrentCUDAStream();
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
    launch.attrs = &cluster;
    launch.numAttrs = blocks > 1 ? 1 : 0;
    if (holding > 0) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_room());
    cudaLaunchKernelEx(&launch, kernel, static_cast<const A*>(a.logits), a.targets, static_cast<A*>(a.losses),
                       static_cast<T*>(a.grad_logits), a.vocabulary, blocks, part);
    check_launch("cross_entropy");
  }
};

}  // namespace

void cross_entropy(const CrossEntropyArguments& arguments, int64_t tokens) { by_dtype<Loss>(arguments, tokens); }

}  // namespace pimoe::cuda
