#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

/// Loads one tile of experts; places past the end hold -1, which is nobody.
__device__ void load_tile(const SlotOrderArguments& a, int32_t* tile) {
  const int64_t first = blockIdx.x * kSlotTile;
  for (int i = static_cast<int>(threadIdx.x); i < kSlotTile; i += kThreads) {
    tile[i] = first + i < a.slots_count ? a.experts[first + i] : -1;
  }
  __syncthreads();
}

/// A thread goes through the whole tile for each expert of its own: all threads read one word at a time, and token order keeps itself.
__global__ void count_tile(SlotOrderArguments a, int32_t* tile_counts) {
  __shared__ int32_t tile[kSlotTile];
  load_tile(a, tile);
  for (int64_t expert = threadIdx.x; expert < a.experts_count; expert += kThreads) {
    int32_t count = 0;
#pragma unroll 16
    for (int i = 0; i < kSlotTile; ++i) count += tile[i] == expert;
    tile_counts[expert * gridDim.x + blockIdx.x] = count;
  }
}

__global__ void place_tile(SlotOrderArguments a, const int32_t* running_sum) {
  __shared__ int32_t tile[kSlotTile];
  load_tile(a, tile);
  const int64_t first = blockIdx.x * kSlotTile;
  for (int64_t expert = threadIdx.x; expert < a.experts_count; expert += kThreads) {
    const int64_t row = expert * gridDim.x;
    int32_t place = row + blockIdx.x == 0 ? 0 : running_sum[row + blockIdx.x - 1];
    if (blockIdx.x == 0) a.counts[expert] = running_sum[row + gridDim.x - 1] - place;
#pragma unroll 16
    for (int i = 0; i < kSlotTile; ++i) {
      if (tile[i] != expert) continue;
      a.slots[place] = static_cast<int32_t>(first + i);
      a.positions[first + i] = place++;
    }
  }
}

unsigned tiles_of(const SlotOrderArguments& a) { return static_cast<unsigned>((a.slots_count + kSlotTile - 1) / kSlotTile); }

}  // namespace

void count_slot_tiles(const SlotOrderArguments& arguments, int32_t* tile_counts) {
  count_tile<<<tiles_of(arguments), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(arguments, tile_counts);
  check_launch("count_slot_tiles");
}

void place_slots(const SlotOrderArguments& arguments, const int32_t* running_sum) {
  place_tile<<<tiles_of(arguments), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(arguments, running_sum);
  check_launch("place_slots");
}

}  // namespace pimoe::cuda
