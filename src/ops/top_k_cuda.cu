#include "ops/cuda_math.cuh"

#include <type_traits>

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

/// The best of the warp's: every lane has it.
template <class A>
__device__ void best_of_warp(A& best, int& index) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const A other = __shfl_xor_sync(0xFFFFFFFFu, best, offset);
    const int other_index = __shfl_xor_sync(0xFFFFFFFFu, index, offset);
    if (other_index >= 0 && (index < 0 || goes_before(other, other_index, best, index))) {
      best = other;
      index = other_index;
    }
  }
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
    best_of_warp(best, best_index);
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

/// One warp for each token, expert e in lane e % 32. What is chosen n-th is in lane n.
template <class A, int N>
__global__ void softmax_choose(SoftmaxTopKArguments a, int64_t tokens) {
  const int64_t token = grid_row();
  if (token >= tokens) return;
  const int lane = static_cast<int>(threadIdx.x), experts = static_cast<int>(a.experts), choices = static_cast<int>(a.choices);
  const A* const logits = static_cast<const A*>(a.logits) + token * experts;
  const A* const bias = static_cast<const A*>(a.bias);
  A scores[N];
  A most = -INFINITY;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int expert = lane + 32 * i;
    scores[i] = expert < experts ? logits[expert] : -INFINITY;
    most = max(most, scores[i]);
  }
  for (int offset = 16; offset > 0; offset /= 2) most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, offset));
  A sum = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    scores[i] = lane + 32 * i < experts ? exp(scores[i] - most) : A{0};
    sum += scores[i];
  }
  sum = warp_sum(sum);
  A* const out = static_cast<A*>(a.scores) + token * experts;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int expert = lane + 32 * i;
    scores[i] /= sum;
    if (expert < experts) out[expert] = scores[i];
  }
  if (lane == 0) static_cast<A*>(a.log_sum)[token] = most + log(sum);

  int32_t* const chosen = a.chosen + token * choices;
  int mine = -1;
  if (a.chooses) {
    A wanted[N];
    unsigned left = 0;  // bit i: the i-th is there, and not chosen yet
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int expert = lane + 32 * i;
      wanted[i] = expert < experts ? scores[i] + bias[expert] : A{0};
      if (expert < experts) left |= 1u << i;
    }
    for (int choice = 0; choice < choices; ++choice) {
      A best = 0;
      int index = -1;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if ((left >> i & 1u) != 0 && (index < 0 || goes_before(wanted[i], lane + 32 * i, best, index))) {
          best = wanted[i];
          index = lane + 32 * i;
        }
      }
      best_of_warp(best, index);
      if (index % 32 == lane) left &= ~(1u << (index / 32));
      if (choice == lane) mine = index;
    }
    if (lane < choices) chosen[lane] = mine;
  } else if (lane < choices) {
    mine = chosen[lane];
  }
  __syncwarp();  // the scores are written
  A gate = lane < choices ? out[mine] : A{0};
  if (a.renormalize) gate /= max(warp_sum(gate), static_cast<A>(a.tiny));
  if (lane < choices) static_cast<A*>(a.gates)[token * choices + lane] = gate;
}

template <class A, int N>
__global__ void softmax_choose_backward(SoftmaxTopKGradients a, int64_t tokens) {
  const int64_t token = grid_row();
  if (token >= tokens) return;
  const int lane = static_cast<int>(threadIdx.x), experts = static_cast<int>(a.experts), choices = static_cast<int>(a.choices);
  const A* const row = static_cast<const A*>(a.scores) + token * experts;
  A scores[N], gradient[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int expert = lane + 32 * i;
    scores[i] = expert < experts ? row[expert] : A{0};
    gradient[i] = 0;
    if (a.of_scores != nullptr && expert < experts) gradient[i] = static_cast<const A*>(a.of_scores)[token * a.of_scores_stride + expert];
  }
  if (a.of_gates != nullptr) {
    const int mine = lane < choices ? a.chosen[token * choices + lane] : 0;
    A of_gate = lane < choices ? static_cast<const A*>(a.of_gates)[token * choices + lane] : A{0};
    if (a.renormalize) {
      const A score = lane < choices ? row[mine] : A{0};
      const A sum = warp_sum(score), tiny = static_cast<A>(a.tiny);
      const A divisor = max(sum, tiny);
      const A mean = warp_sum(of_gate * score) / divisor;
      of_gate = (of_gate - (divisor > tiny ? mean : A{0})) / divisor;
    }
    for (int choice = 0; choice < choices; ++choice) {
      const int expert = __shfl_sync(0xFFFFFFFFu, mine, choice);
      const A part = __shfl_sync(0xFFFFFFFFu, of_gate, choice);
#pragma unroll
      for (int i = 0; i < N; ++i) gradient[i] += expert == lane + 32 * i ? part : A{0};
    }
  }
  A dot = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) dot += gradient[i] * scores[i];
  dot = warp_sum(dot);
  const A of_log_sum = a.of_log_sum != nullptr ? static_cast<const A*>(a.of_log_sum)[token] : A{0};
  A* const out = static_cast<A*>(a.of_logits) + token * experts;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int expert = lane + 32 * i;
    if (expert < experts) out[expert] = scores[i] * (gradient[i] - dot + of_log_sum);
  }
}

/// Calls `start` with how many of a token's numbers a lane holds, a power of two.
template <class Start>
void with_numbers_of_lane(int64_t experts, const Start& start) {
  if (experts <= 32) return start(std::integral_constant<int, 1>{});
  if (experts <= 64) return start(std::integral_constant<int, 2>{});
  if (experts <= 128) return start(std::integral_constant<int, 4>{});
  if (experts <= 256) return start(std::integral_constant<int, 8>{});
  start(std::integral_constant<int, kMostExpertsOfWarp / 32>{});
}

/// @param kernel_of  returns the kernel for a type of numbers, given by one of them, and how many a lane holds
template <class Arguments, class KernelOf>
void launch_warps(const Arguments& a, int64_t tokens, const char* name, const KernelOf& kernel_of) {
  const RowGrid grid = warp_grid(tokens);
  with_numbers_of_lane(a.experts, [&](auto numbers) {
    const auto kernel = a.dtype == Dtype::kFloat64 ? kernel_of(double{}, numbers) : kernel_of(float{}, numbers);
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(a, tokens);
  });
  check_launch(name);
}

}  // namespace

void softmax_top_k(const SoftmaxTopKArguments& arguments, int64_t tokens) {
  launch_warps(arguments, tokens, "softmax_top_k",
               [](auto number, auto numbers) { return softmax_choose<decltype(number), numbers.value>; });
}

void softmax_top_k_backward(const SoftmaxTopKGradients& arguments, int64_t tokens) {
  launch_warps(arguments, tokens, "softmax_top_k_backward",
               [](auto number, auto numbers) { return softmax_choose_backward<decltype(number), numbers.value>; });
}

void top_k(const TopKArguments& arguments, int64_t tokens) {
  arguments.dtype == Dtype::kFloat64 ? launch_choose<double>(arguments, tokens) : launch_choose<float>(arguments, tokens);
}

}  // namespace pimoe::cuda
