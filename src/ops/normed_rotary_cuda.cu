#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

/// The two halves of a head, N neighbours of each in one lane, the next 32 N in the same lane's next place.
template <class T, int N, class A = Arithmetic<T>>
struct Pair {
  A first[N], second[N];

  __device__ static Pair load_from(const T* head, int64_t half, int64_t column) {
    const auto left = load_pack<T, N>(head + column);
    const auto right = load_pack<T, N>(head + half + column);
    Pair pair;
    for (int i = 0; i < N; ++i) {
      pair.first[i] = load(left.values[i]);
      pair.second[i] = load(right.values[i]);
    }
    return pair;
  }
  __device__ void store_to(T* head, int64_t half, int64_t column) const {
    Pack<T, N> left, right;
    for (int i = 0; i < N; ++i) {
      store(&left.values[i], first[i]);
      store(&right.values[i], second[i]);
    }
    store_pack(head + column, left);
    store_pack(head + half + column, right);
  }
  /// @param direction  1, or -1 to turn back
  __device__ void turn(const A* cosine, const A* sine, int64_t column, A direction) {
    const auto c = load_pack<A, N>(cosine + column);
    const auto s = load_pack<A, N>(sine + column);
    for (int i = 0; i < N; ++i) {
      const A left = first[i];
      const A sign = direction * s.values[i];
      first[i] = left * c.values[i] - second[i] * sign;
      second[i] = second[i] * c.values[i] + left * sign;
    }
  }
};

/// One warp for each head of each position.
template <class T, int N, class A = Arithmetic<T>>
__global__ void forward(NormedRotaryArguments a, int64_t heads) {
  const int64_t index = grid_row();
  if (index >= heads) return;
  const int64_t head = index % a.heads;
  const int64_t row = index / a.heads;
  const int64_t half = a.half_width;
  const T* x = static_cast<const T*>(a.input) + index * 2 * half;
  T* y = static_cast<T*>(a.output) + index * 2 * half;
  const bool normed = head < a.normed_heads;
  A squares = 0;
  for (int64_t column = threadIdx.x * N; column < half; column += 32 * N) {
    const auto pair = Pair<T, N>::load_from(x, half, column);
    if (!normed) pair.store_to(y, half, column);
    for (int i = 0; i < N; ++i) squares += pair.first[i] * pair.first[i] + pair.second[i] * pair.second[i];
  }
  if (!normed) return;
  const A inverse = A(1) / sqrt(warp_sum(squares) / static_cast<A>(2 * half) + static_cast<A>(a.epsilon));
  if (threadIdx.x == 0) static_cast<A*>(a.inverse_rms)[row * a.normed_heads + head] = inverse;
  const A* weight = static_cast<const A*>(head < a.queries ? a.query_weight : a.key_weight);
  const A* cosine = static_cast<const A*>(a.cosine) + row % a.positions * half;
  const A* sine = static_cast<const A*>(a.sine) + row % a.positions * half;
  for (int64_t column = threadIdx.x * N; column < half; column += 32 * N) {
    auto pair = Pair<T, N>::load_from(x, half, column);
    const auto left = load_pack<A, N>(weight + column);
    const auto right = load_pack<A, N>(weight + half + column);
    for (int i = 0; i < N; ++i) {
      pair.first[i] *= inverse * left.values[i];
      pair.second[i] *= inverse * right.values[i];
    }
    pair.turn(cosine, sine, column, A(1));
    pair.store_to(y, half, column);
  }
}

/// With n = x r, r = 1 / rms, and dy the gradient turned back: dx = r (w dy - n mean(w dy n)), dw = sum over heads and rows of dy n. A block
/// takes one chunk of positions; its warps take heads in turn, and their parts of dw are added in the warps' order, in shared memory
/// [warps, 2, d].
template <class T, int N, class A = Arithmetic<T>>
__global__ void backward(NormedRotaryArguments a, int64_t rows) {
  extern __shared__ char shared[];
  const int64_t half = a.half_width;
  A* all_sums = reinterpret_cast<A*>(shared);
  A* sums = all_sums + threadIdx.y * 4 * half;
  for (int64_t i = threadIdx.x; i < 4 * half; i += 32) sums[i] = 0;
  __syncwarp();
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRmsNormChunk;
  const int64_t last_row = min(rows, first_row + kRmsNormChunk);
  for (int64_t index = first_row * a.heads + threadIdx.y; index < last_row * a.heads; index += blockDim.y) {
    const int64_t head = index % a.heads;
    const int64_t row = index / a.heads;
    const T* x = static_cast<const T*>(a.input) + index * 2 * half;
    const T* turned = static_cast<const T*>(a.grad_output) + index * 2 * half;
    T* dx = static_cast<T*>(a.grad_input) + index * 2 * half;
    if (head >= a.normed_heads) {
      for (int64_t column = threadIdx.x * N; column < half; column += 32 * N) {
        Pair<T, N>::load_from(turned, half, column).store_to(dx, half, column);
      }
      continue;
    }
    const bool of_query = head < a.queries;
    const A* weight = static_cast<const A*>(of_query ? a.query_weight : a.key_weight);
    A* of_weight = of_query ? sums : sums + 2 * half;
    const A* cosine = static_cast<const A*>(a.cosine) + row % a.positions * half;
    const A* sine = static_cast<const A*>(a.sine) + row % a.positions * half;
    const A inverse = static_cast<const A*>(a.inverse_rms)[row * a.normed_heads + head];
    A dot = 0;
    for (int64_t column = threadIdx.x * N; column < half; column += 32 * N) {
      const auto xs = Pair<T, N>::load_from(x, half, column);
      auto dy = Pair<T, N>::load_from(turned, half, column);
      dy.turn(cosine, sine, column, A(-1));
      const auto left = load_pack<A, N>(weight + column);
      const auto right = load_pack<A, N>(weight + half + column);
      for (int i = 0; i < N; ++i) {
        dot += dy.first[i] * left.values[i] * xs.first[i] + dy.second[i] * right.values[i] * xs.second[i];
        // A lane's own columns: no other lane touches them.
        of_weight[column + i] += dy.first[i] * (xs.first[i] * inverse);
        of_weight[half + column + i] += dy.second[i] * (xs.second[i] * inverse);
      }
    }
    const A pull = warp_sum(dot) * inverse * inverse / static_cast<A>(2 * half);
    for (int64_t column = threadIdx.x * N; column < half; column += 32 * N) {
      const auto xs = Pair<T, N>::load_from(x, half, column);
      auto dy = Pair<T, N>::load_from(turned, half, column);
      dy.turn(cosine, sine, column, A(-1));
      const auto left = load_pack<A, N>(weight + column);
      const auto right = load_pack<A, N>(weight + half + column);
      for (int i = 0; i < N; ++i) {
        dy.first[i] = inverse * (dy.first[i] * left.values[i] - xs.first[i] * pull);
        dy.second[i] = inverse * (dy.second[i] * right.values[i] - xs.second[i] * pull);
      }
      dy.store_to(dx, half, column);
    }
  }
  __syncthreads();
  A* partial = static_cast<A*>(a.grad_weight_partial) + blockIdx.x * 4 * half;
  for (int64_t i = threadIdx.y * 32 + threadIdx.x; i < 4 * half; i += 32 * blockDim.y) {
    A total = 0;
    for (unsigned warp = 0; warp < blockDim.y; ++warp) total += all_sums[warp * 4 * half + i];
    partial[i] = total;
  }
}

/// Two neighbours a lane: heads are short, and wider packs would leave lanes without work.
template <class T>
bool takes_pairs(const NormedRotaryArguments& a) {
  constexpr size_t kBytes = 2 * sizeof(Arithmetic<T>);
  const auto fits = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kBytes == 0; };
  return a.half_width % 2 == 0 && fits(a.input) && fits(a.output) && fits(a.grad_output) && fits(a.grad_input) && fits(a.query_weight) &&
         fits(a.key_weight) && fits(a.cosine) && fits(a.sine);
}

struct Forward {
  template <class T>
  static void run(const NormedRotaryArguments& a, int64_t rows) {
    const RowGrid grid = warp_grid(rows * a.heads);
    const auto kernel = takes_pairs<T>(a) ? forward<T, 2> : forward<T, 1>;
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(a, rows * a.heads);
    check_launch("normed_rotary");
  }
};

struct Backward {
  template <class T>
  static void run(const NormedRotaryArguments& a, int64_t rows) {
    constexpr size_t kRoom = 48 << 10;  // of shared memory that a block has without asking
    const size_t warp_bytes = static_cast<size_t>(4 * a.half_width) * sizeof(Arithmetic<T>);
    if (warp_bytes > kRoom) throw ShapeError("normed_rotary: heads of " + std::to_string(2 * a.half_width) + " numbers are too wide");
    const auto warps = static_cast<unsigned>(warp_bytes * 8 <= kRoom ? 8 : kRoom / warp_bytes);
    const dim3 blocks(static_cast<unsigned>((rows + kRmsNormChunk - 1) / kRmsNormChunk));
    const auto kernel = takes_pairs<T>(a) ? backward<T, 2> : backward<T, 1>;
    kernel<<<blocks, dim3(32, warps), warps * warp_bytes, c10::cuda::getCurrentCUDAStream()>>>(a, rows);
    check_launch("normed_rotary_backward");
  }
};

}  // namespace

void normed_rotary(const NormedRotaryArguments& arguments, int64_t rows) { by_dtype<Forward>(arguments, rows); }
void normed_rotary_backward(const NormedRotaryArguments& arguments, int64_t rows) { by_dtype<Backward>(arguments, rows); }

}  // namespace pimoe::cuda
