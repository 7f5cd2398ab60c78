#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

/// Every score has one place in the order (number before NaN, larger before smaller, lower index before higher), so that the next best is
/// simply the best of those after the last one chosen: nothing needs to be marked.
template <class A>
__device__ bool goes_before(A score, int index, A other, int other_index) {
  const bool is_nan = isnan(score);
  const bool other_is_nan = isnan(other);
  if (is_nan != other_is_nan) return other_is_nan;
  if (!is_nan && score != other) return score > other;
  return index < other_index;
}

/// One warp for each token.
template <class A>
__global__ void choose(const A* scores, int experts, int choices, int32_t* chosen, int64_t tokens) {
  const int64_t token = grid_row();
  if (token >= tokens) return;
  const A* row = scores + token * experts;
  A last = 0;
  int last_index = -1;
  for (int choice = 0; choice < choices; ++choice) {
    A best = 0;
    int best_index = -1;
    for (int expert = static_cast<int>(threadIdx.x); expert < experts; expert += 32) {
      const A score = row[expert];
      const bool is_left = last_index < 0 || goes_before(last, last_index, score, expert);
      if (is_left && (best_index < 0 || goes_before(score, expert, best, best_index))) {
        best = score;
        best_index = expert;
      }
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      const A other = __shfl_xor_sync(0xFFFFFFFFu, best, offset);
      const int other_index = __shfl_xor_sync(0xFFFFFFFFu, best_index, offset);
      if (other_index >= 0 && (best_index < 0 || goes_before(other, other_index, best, best_index))) {
        best = other;
        best_index = other_index;
      }
    }
    last = best;
    last_index = best_index;
    if (threadIdx.x == 0) chosen[token * choices + choice] = best_index;
  }
}

template <class A>
void launch_choose(const TopKArguments& a, int64_t tokens) {
  const RowGrid grid = warp_grid(tokens);
  choose<A><<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      static_cast<const A*>(a.scores), static_cast<int>(a.experts), static_cast<int>(a.choices), a.chosen, tokens);
  check_launch("top_k");
}

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

void top_k(const TopKArguments& arguments, int64_t tokens) {
  arguments.dtype == Dtype::kFloat64 ? launch_choose<double>(arguments, tokens) : launch_choose<float>(arguments, tokens);
}

void count_slot_tiles(const SlotOrderArguments& arguments, int32_t* tile_counts) {
  count_tile<<<tiles_of(arguments), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(arguments, tile_counts);
  check_launch("count_slot_tiles");
}

void place_slots(const SlotOrderArguments& arguments, const int32_t* running_sum) {
  place_tile<<<tiles_of(arguments), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(arguments, running_sum);
  check_launch("place_slots");
}

}  // namespace pimoe::cuda
