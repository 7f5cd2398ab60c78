#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

/// base/random.h's random_bits, on the device.
__device__ uint64_t random_bits(uint64_t key_value, uint64_t index) {
  uint32_t key[2] = {static_cast<uint32_t>(key_value), static_cast<uint32_t>(key_value >> 32)};
  uint32_t counter[4] = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0};
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53} * counter[0];
    const uint64_t right = uint64_t{0xCD9E8D57} * counter[2];
    counter[0] = static_cast<uint32_t>(right >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<uint32_t>(right);
    counter[2] = static_cast<uint32_t>(left >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<uint32_t>(left);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return (static_cast<uint64_t>(counter[1]) << 32) | counter[0];
}

template <class A>
__global__ void fill(KeyedNoiseArguments a, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const double uniform = static_cast<double>(random_bits(a.key, a.first_index + static_cast<uint64_t>(i)) >> 11) * 0x1p-53;
    // Rounded as the host rounds: no fused multiply-add.
    const double factor = __dadd_rn(1.0, __dmul_rn(a.amplitude, __dadd_rn(2.0 * uniform, -1.0)));
    static_cast<A*>(a.output)[i] = static_cast<A>(factor);
  }
}

}  // namespace

void keyed_noise(const KeyedNoiseArguments& arguments, int64_t count) {
  const auto blocks = static_cast<unsigned>(count < int64_t{kThreads} * 4096 ? (count + kThreads - 1) / kThreads : 4096);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  if (arguments.dtype == Dtype::kFloat64) {
    fill<double><<<blocks, kThreads, 0, stream>>>(arguments, count);
  } else {
    fill<float><<<blocks, kThreads, 0, stream>>>(arguments, count);
  }
  check_launch("keyed_noise");
}

}  // namespace pimoe::cuda
