#pragma once

/// What the CUDA kernels share: 16-bit formats, 16-byte packs, sums over a warp, launch shapes. Included by *_cuda.cu alone.

#include "base/errors.h"
#include "ops/kernels.h"

#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <string>
#include <type_traits>

namespace pimoe::cuda {

template <class T>
using Arithmetic = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline double load(double value) { return value; }
__device__ inline float load(float value) { return value; }
__device__ inline float load(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float load(__half value) { return __half2float(value); }

__device__ inline void store(double* out, double value) { *out = value; }
__device__ inline void store(float* out, float value) { *out = value; }
__device__ inline void store(__nv_bfloat16* out, float value) { *out = __float2bfloat16_rn(value); }
__device__ inline void store(__half* out, float value) { *out = __float2half_rn(value); }

__device__ inline double exponential(double x) { return exp(x); }
__device__ inline float exponential(float x) { return expf(x); }

/// N neighbours that one instruction moves (two for what is wider than 16 bytes).
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T values[N];
};

template <class T, int N>
__device__ inline Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <class T, int N>
__device__ inline void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

/// Whether rows of `width` elements can be moved in packs; null pointers do not matter.
template <class T, class... Pointers>
bool packs_fit(int64_t width, Pointers... pointers) {
  return width % kPack<T> == 0 && (is_aligned(pointers) && ...);
}

/// Head `head` of position `position` of a sequence, counted through queries, keys and values.
template <class T>
__device__ inline const T* head_of(const HeadParts& parts, int queries, int kv_heads, int64_t sequence, int64_t position, int head,
                                   int width) {
  const auto begin = [&](const HeadRows& rows, int first) {
    return static_cast<const T*>(rows.data) + sequence * rows.sequence_stride + position * rows.position_stride + (head - first) * width;
  };
  if (head < queries) return begin(parts.queries, 0);
  return head < queries + kv_heads ? begin(parts.keys, queries) : begin(parts.values, queries + kv_heads);
}

/// Whether rows of heads can be moved in packs of `bytes`.
inline bool heads_align(const HeadParts& parts, size_t element_bytes, size_t bytes) {
  const auto aligns = [&](const HeadRows& rows) {
    return reinterpret_cast<uintptr_t>(rows.data) % bytes == 0 && static_cast<size_t>(rows.sequence_stride) * element_bytes % bytes == 0 &&
           static_cast<size_t>(rows.position_stride) * element_bytes % bytes == 0;
  };
  return aligns(parts.queries) && aligns(parts.keys) && aligns(parts.values);
}

/// The same sum in every lane, added in the same order.
template <class A>
__device__ inline A warp_sum(A value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  return value;
}

constexpr int kThreads = 256;

/// threads.x threads take the packs of a row in turn, threads.y rows go to one block.
struct RowGrid {
  dim3 blocks;
  dim3 threads;
};

inline RowGrid row_grid(int64_t rows, int64_t packs_a_row) {
  unsigned across = 1;
  while (across < kThreads && across < packs_a_row) across *= 2;
  const unsigned down = kThreads / across;
  return {dim3(static_cast<unsigned>((rows + down - 1) / down)), dim3(across, down)};
}

/// One warp for each row.
inline RowGrid warp_grid(int64_t rows) {
  constexpr unsigned kWarps = kThreads / 32;
  return {dim3(static_cast<unsigned>((rows + kWarps - 1) / kWarps)), dim3(32, kWarps)};
}

__device__ inline int64_t grid_row() { return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; }

/// @throws Error when the launch before this call failed.
inline void check_launch(const char* kernel) {
  const cudaError_t code = cudaGetLastError();
  if (code != cudaSuccess) throw Error(std::string("CUDA kernel ") + kernel + ": " + cudaGetErrorString(code));
}

/// Calls Kernel::run<T>(arguments, rows) with the element type that arguments.dtype names.
template <class Kernel, class Arguments>
void by_dtype(const Arguments& arguments, int64_t rows) {
  switch (arguments.dtype) {
    case Dtype::kFloat64: return Kernel::template run<double>(arguments, rows);
    case Dtype::kFloat32: return Kernel::template run<float>(arguments, rows);
    case Dtype::kBFloat16: return Kernel::template run<__nv_bfloat16>(arguments, rows);
    case Dtype::kFloat16: return Kernel::template run<__half>(arguments, rows);
  }
}

}  // namespace pimoe::cuda
