#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

/// A struct of the arithmetic type, so that no thread converts.
template <class A>
struct Rates {
  A gradient_factor, kept, first_rate, second_kept, second_rate, root_scale, epsilon, step_size;
};

template <class A>
Rates<A> rates_of(const AdamwArguments& a) {
  return {static_cast<A>(a.gradient_factor), static_cast<A>(a.kept),       static_cast<A>(a.first_rate), static_cast<A>(a.second_kept),
          static_cast<A>(a.second_rate),     static_cast<A>(a.root_scale), static_cast<A>(a.epsilon),    static_cast<A>(a.step_size)};
}

/// The sums of a thread; one multiply-add a word. @param index  of the value in its chunk
__device__ inline void add_bits(uint64_t& sum, float value, uint32_t index) {
  sum += static_cast<uint64_t>(__float_as_uint(value)) * (2 * index + 1);
}
__device__ inline void add_bits(uint64_t& sum, double value, uint32_t index) {
  sum += static_cast<uint64_t>(static_cast<uint32_t>(__double2loint(value))) * (4 * index + 1);
  sum += static_cast<uint64_t>(static_cast<uint32_t>(__double2hiint(value))) * (4 * index + 3);
}

template <class A>
struct Element {
  A master, exp_avg, exp_avg_sq;
};

template <class A>
__device__ inline void add_bits(uint64_t (&sums)[3], const Element<A>& element, uint32_t index) {
  add_bits(sums[0], element.master, index);
  add_bits(sums[1], element.exp_avg, index);
  add_bits(sums[2], element.exp_avg_sq, index);
}

template <class A>
__device__ inline void update(Element<A>& element, A gradient, const Rates<A>& r) {
  const A g = gradient * r.gradient_factor;
  element.exp_avg += r.first_rate * (g - element.exp_avg);
  element.exp_avg_sq = r.second_kept * element.exp_avg_sq + r.second_rate * g * g;
  element.master = r.kept * element.master - r.step_size * element.exp_avg / (sqrt(element.exp_avg_sq) * r.root_scale + r.epsilon);
}

/// The sums of a block, in its first thread.
__device__ inline void add_up(uint64_t (&sums)[3]) {
  __shared__ uint64_t of_warps[kThreads / 32][3];
  for (uint64_t& sum : sums) sum = warp_sum(sum);
  __syncthreads();  // of the sums before
  if (threadIdx.x % 32 == 0) {
    for (int kind = 0; kind < 3; ++kind) of_warps[threadIdx.x / 32][kind] = sums[kind];
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kThreads / 32; ++warp) {
    for (int kind = 0; kind < 3; ++kind) sums[kind] += of_warps[warp][kind];
  }
}

/// A block takes a chunk. Packs are whole but for the very last one, since chunks begin at multiples of 64 elements.
/// @tparam W  of the weights; A: there are none apart  @tparam kUpdates  false: reads and sums alone
template <class A, class W, bool kUpdates>
__global__ __launch_bounds__(kThreads) void pass(AdamwArguments a, Rates<A> rates) {
  constexpr int N = kPack<A>;
  A* const master = static_cast<A*>(a.master);
  A* const exp_avg = static_cast<A*>(a.exp_avg);
  A* const exp_avg_sq = static_cast<A*>(a.exp_avg_sq);
  const A* const gradient = static_cast<const A*>(a.gradient);
  W* const weights = static_cast<W*>(a.weights);
  const int64_t chunk = blockIdx.x;
  const int64_t begin = a.begins[chunk];
  const auto length = static_cast<uint32_t>(a.begins[chunk + 1] - begin);
  uint64_t read[3] = {};
  uint64_t written[3] = {};

  for (uint32_t first = threadIdx.x * N; first + N <= length; first += kThreads * N) {
    const int64_t place = begin + first;
    auto masters = load_pack<A, N>(master + place);
    auto firsts = load_pack<A, N>(exp_avg + place);
    auto seconds = load_pack<A, N>(exp_avg_sq + place);
    Pack<A, N> gradients{};
    if constexpr (kUpdates) gradients = load_pack<A, N>(gradient + place);
    Pack<W, N> rounded;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      Element<A> element{masters.values[i], firsts.values[i], seconds.values[i]};
      add_bits(read, element, first + i);
      if constexpr (!kUpdates) continue;
      update(element, gradients.values[i], rates);
      add_bits(written, element, first + i);
      masters.values[i] = element.master;
      firsts.values[i] = element.exp_avg;
      seconds.values[i] = element.exp_avg_sq;
      store(&rounded.values[i], element.master);
    }
    if constexpr (!kUpdates) continue;
    store_pack(master + place, masters);
    store_pack(exp_avg + place, firsts);
    store_pack(exp_avg_sq + place, seconds);
    if constexpr (!std::is_same_v<W, A>) store_pack(weights + place, rounded);
  }
  for (uint32_t i = length / N * N + threadIdx.x; i < length; i += kThreads) {
    const int64_t place = begin + i;
    Element<A> element{master[place], exp_avg[place], exp_avg_sq[place]};
    add_bits(read, element, i);
    if constexpr (!kUpdates) continue;
    update(element, gradient[place], rates);
    add_bits(written, element, i);
    master[place] = element.master;
    exp_avg[place] = element.exp_avg;
    exp_avg_sq[place] = element.exp_avg_sq;
    if constexpr (!std::is_same_v<W, A>) store(&weights[place], element.master);
  }

  add_up(read);
  if constexpr (kUpdates) add_up(written);
  if (threadIdx.x != 0) return;
  for (int kind = 0; kind < 3; ++kind) {
    uint64_t& known = a.sums[3 * chunk + kind];
    if (known != read[kind]) {
      a.changed[chunk] = static_cast<uint8_t>(a.changed[chunk] | 1 << kind);
      atomicAdd(a.found, 1ULL);
    }
    known = kUpdates ? written[kind] : read[kind];
  }
}

template <class A, class W>
void start(const AdamwArguments& a, int64_t chunks) {
  const auto kernel = a.gradient == nullptr ? pass<A, W, false> : pass<A, W, true>;
  kernel<<<static_cast<unsigned>(chunks), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(a, rates_of<A>(a));
  check_launch("adamw");
}

}  // namespace

void adamw(const AdamwArguments& a, int64_t chunks) {
  if (a.dtype == Dtype::kFloat64) return start<double, double>(a, chunks);
  switch (a.weight_dtype) {
    case Dtype::kBFloat16: return start<float, __nv_bfloat16>(a, chunks);
    case Dtype::kFloat16: return start<float, __half>(a, chunks);
    default: return start<float, float>(a, chunks);
  }
}

}  // namespace pimoe::cuda
