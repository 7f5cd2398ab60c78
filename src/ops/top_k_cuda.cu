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

}  // namespace

void top_k(const TopKArguments& arguments, int64_t tokens) {
  arguments.dtype == Dtype::kFloat64 ? launch_choose<double>(arguments, tokens) : launch_choose<float>(arguments, tokens);
}

}  // namespace pimoe::cuda
