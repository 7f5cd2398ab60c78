#include "ops/cuda_math.cuh"

#include <algorithm>

namespace pimoe::cuda {
namespace {

/// What one lane has of a head: of either half C packs of N neighbours, packs blockDim.x N apart. Lanes along x share a head; they are a power of
/// two, no more than a warp's.
template <class A, int N, int C>
struct Halves {
  A first[C * N], second[C * N];

  /// @param half  columns of either half; 0 for a lane that has none
  template <class T>
  __device__ static Halves load_from(const T* left, const T* right, int half) {
    Halves halves;
    for (int c = 0; c < C; ++c) {
      const int column = column_of(c);
      Pack<T, N> of_left{}, of_right{};
      if (column < half) {
        of_left = load_pack<T, N>(left + column);
        of_right = load_pack<T, N>(right + column);
      }
      for (int i = 0; i < N; ++i) {
        halves.first[c * N + i] = load(of_left.values[i]);
        halves.second[c * N + i] = load(of_right.values[i]);
      }
    }
    return halves;
  }
  template <class T>
  __device__ void store_to(T* left, T* right, int half) const {
    for (int c = 0; c < C; ++c) {
      const int column = column_of(c);
      if (column >= half) continue;
      Pack<T, N> of_left, of_right;
      for (int i = 0; i < N; ++i) {
        store(&of_left.values[i], first[c * N + i]);
        store(&of_right.values[i], second[c * N + i]);
      }
      store_pack(left + column, of_left);
      store_pack(right + column, of_right);
    }
  }
  /// @param angles     cosines and sines
  /// @param direction  1, or -1 to turn back
  __device__ void turn(const Halves& angles, A direction) {
    for (int i = 0; i < C * N; ++i) {
      const A left = first[i];
      const A sine = direction * angles.second[i];
      first[i] = left * angles.first[i] - second[i] * sine;
      second[i] = second[i] * angles.first[i] + left * sine;
    }
  }
  __device__ static int column_of(int c) { return static_cast<int>(threadIdx.x + c * blockDim.x) * N; }
};

/// Of the lanes that share a head: the same sum in each, added in the same order. All lanes of a warp take part.
template <class A>
__device__ A head_sum(A value) {
  for (unsigned offset = blockDim.x / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  return value;
}

/// One block for each position; heads in turn.
template <class T, int N, int C, class A = Arithmetic<T>>
__global__ void __launch_bounds__(kThreads) forward(NormedRotaryArguments a) {
  using Lane = Halves<A, N, C>;
  const int half = static_cast<int>(a.half_width);
  const int queries = static_cast<int>(a.queries);
  const int normed = queries + static_cast<int>(a.kv_heads);
  const int heads = normed + static_cast<int>(a.kv_heads);
  const int64_t row = blockIdx.x;
  const int64_t position = row % a.positions;
  const Lane angles =
      Lane::load_from(static_cast<const A*>(a.cosine) + position * half, static_cast<const A*>(a.sine) + position * half, half);
  for (int first = 0; first < heads; first += static_cast<int>(blockDim.y)) {
    const int head = first + static_cast<int>(threadIdx.y);
    const int columns = head < heads ? half : 0;
    const int64_t begin = (row * heads + head) * 2 * half;
    const T* in = static_cast<const T*>(a.input) + begin;
    const A* weight = static_cast<const A*>(head < queries ? a.query_weight : a.key_weight);
    const Lane weights = Lane::load_from(weight, weight + half, half);
    Lane x = Lane::load_from(in, in + half, columns);
    A squares = 0;
    for (int i = 0; i < C * N; ++i) squares += x.first[i] * x.first[i] + x.second[i] * x.second[i];
    const A inverse = A(1) / sqrt(head_sum(squares) / static_cast<A>(2 * half) + static_cast<A>(a.epsilon));
    if (head < normed) {
      if (threadIdx.x == 0) static_cast<A*>(a.inverse_rms)[row * normed + head] = inverse;
      for (int i = 0; i < C * N; ++i) {
        x.first[i] *= inverse * weights.first[i];
        x.second[i] *= inverse * weights.second[i];
      }
      x.turn(angles, A(1));
    }
    T* out = static_cast<T*>(a.output) + begin;
    x.store_to(out, out + half, columns);
  }
}

/// With n = x r, r = 1 / rms, and dy the gradient turned back: dx = r (w dy - n mean(w dy n)), dw = sum over heads and rows of dy n. A block
/// takes one chunk of positions: first their queries, then their keys, whose parts of dw stay in registers meanwhile and are added in the order of
/// threadIdx.y, in shared memory [blockDim.y, d]; then values.
template <class T, int N, int C, class A = Arithmetic<T>>
__global__ void __launch_bounds__(kThreads) backward(NormedRotaryArguments a, int64_t rows) {
  using Lane = Halves<A, N, C>;
  extern __shared__ __align__(16) char shared[];
  A* sums = reinterpret_cast<A*>(shared);
  const int half = static_cast<int>(a.half_width);
  const int queries = static_cast<int>(a.queries);
  const int kv_heads = static_cast<int>(a.kv_heads);
  const int heads = queries + 2 * kv_heads;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRmsNormChunk;
  const int chunk = static_cast<int>(min(rows - first_row, kRmsNormChunk));
  // Divisions of 64 bits are long: they are made once.
  const auto positions = static_cast<unsigned>(a.positions);
  const int64_t first_sequence = first_row / a.positions;
  const auto first_position = static_cast<unsigned>(first_row % a.positions);
  const A share = A(1) / static_cast<A>(2 * half);
  for (int kind = 0; kind < 2; ++kind) {
    const bool of_query = kind == 0;
    const int first_head = of_query ? 0 : queries;
    const int count = of_query ? queries : kv_heads;
    const HeadRows grads = of_query ? a.grad_output.queries : a.grad_output.keys;
    const A* weight = static_cast<const A*>(of_query ? a.query_weight : a.key_weight);
    const Lane weights = Lane::load_from(weight, weight + half, half);
    Lane of_weight{};
    for (int first = 0; first < chunk * count; first += static_cast<int>(blockDim.y)) {
      // Lanes past the end go round with the others, which they add up with, but for nothing.
      const int index = min(first + static_cast<int>(threadIdx.y), chunk * count - 1);
      const int columns = index == first + static_cast<int>(threadIdx.y) ? half : 0;
      const unsigned row_of_chunk = static_cast<unsigned>(index) / static_cast<unsigned>(count);
      const int head = index - static_cast<int>(row_of_chunk) * count;
      const unsigned sequence = (first_position + row_of_chunk) / positions;
      const int64_t position = first_position + row_of_chunk - sequence * positions;
      const int64_t row = first_row + row_of_chunk;
      const T* turned = static_cast<const T*>(grads.data) + (first_sequence + sequence) * grads.sequence_stride +
                        position * grads.position_stride + head * 2 * half;
      const int64_t begin = (row * heads + first_head + head) * 2 * half;
      const T* in = static_cast<const T*>(a.input) + begin;
      const A* cosine = static_cast<const A*>(a.cosine) + position * half;
      const A* sine = static_cast<const A*>(a.sine) + position * half;
      const Lane x = Lane::load_from(in, in + half, columns);
      const Lane angles = Lane::load_from(cosine, sine, columns);
      const A inverse = static_cast<const A*>(a.inverse_rms)[row * (queries + kv_heads) + first_head + head];
      Lane dy = Lane::load_from(turned, turned + half, columns);
      dy.turn(angles, A(-1));
      A dot = 0;
      for (int i = 0; i < C * N; ++i) {
        of_weight.first[i] += dy.first[i] * (x.first[i] * inverse);
        of_weight.second[i] += dy.second[i] * (x.second[i] * inverse);
        dy.first[i] *= weights.first[i];
        dy.second[i] *= weights.second[i];
        dot += dy.first[i] * x.first[i] + dy.second[i] * x.second[i];
      }
      const A pull = head_sum(dot) * inverse * inverse * share;
      for (int i = 0; i < C * N; ++i) {
        dy.first[i] = inverse * (dy.first[i] - x.first[i] * pull);
        dy.second[i] = inverse * (dy.second[i] - x.second[i] * pull);
      }
      T* dx = static_cast<T*>(a.grad_input) + begin;
      dy.store_to(dx, dx + half, columns);
    }
    A* own = sums + threadIdx.y * 2 * half;
    of_weight.store_to(own, own + half, half);
    __syncthreads();
    A* partial = static_cast<A*>(a.grad_weight_partial) + (static_cast<int64_t>(blockIdx.x) * 2 + kind) * 2 * half;
    for (int i = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); i < 2 * half; i += static_cast<int>(blockDim.x * blockDim.y)) {
      A total = 0;
      for (unsigned y = 0; y < blockDim.y; ++y) total += sums[y * 2 * half + i];
      partial[i] = total;
    }
    __syncthreads();
  }
  const HeadRows grads = a.grad_output.values;
  for (int index = static_cast<int>(threadIdx.y); index < chunk * kv_heads; index += static_cast<int>(blockDim.y)) {
    const int64_t row = first_row + index / kv_heads;
    const int64_t head = index % kv_heads;
    const T* from = static_cast<const T*>(grads.data) + row / a.positions * grads.sequence_stride +
                    row % a.positions * grads.position_stride + head * 2 * half;
    T* to = static_cast<T*>(a.grad_input) + (row * heads + queries + kv_heads + head) * 2 * half;
    Lane::load_from(from, from + half, half).store_to(to, to + half, half);
  }
}

/// Neighbours that a lane takes together: heads are short, and wider packs would leave lanes without work, or registers.
constexpr int kTogether = 4;
constexpr int kAlone = 16;  // packs of one number where that does not fit

template <class T>
bool takes_packs(const NormedRotaryArguments& a) {
  const auto fits = [](const void* pointer, size_t element_bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % std::min<size_t>(16, kTogether * element_bytes) == 0;
  };
  const auto of_heads = [&](const void* pointer) { return fits(pointer, sizeof(T)); };
  const auto of_tables = [&](const void* pointer) { return fits(pointer, sizeof(Arithmetic<T>)); };
  return a.half_width % kTogether == 0 && a.half_width <= 32 * kTogether && of_heads(a.input) && of_heads(a.output) &&
         of_heads(a.grad_input) && heads_align(a.grad_output, sizeof(T), std::min<size_t>(16, kTogether * sizeof(T))) &&
         of_tables(a.query_weight) && of_tables(a.key_weight) && of_tables(a.cosine) && of_tables(a.sine);
}

/// Lanes that share a head, and heads at a time.
dim3 threads_of(const NormedRotaryArguments& a, bool packed, size_t room_a_head) {
  constexpr size_t kRoom = 48 << 10;  // of shared memory that a block has without asking
  if (a.half_width > 32 * kAlone) {
    throw ShapeError("normed_rotary: heads of " + std::to_string(2 * a.half_width) + " numbers are wider than " +
                     std::to_string(64 * kAlone));
  }
  const int64_t packs = packed ? a.half_width / kTogether : a.half_width;
  unsigned lanes = 1;
  while (lanes < 32 && lanes < packs) lanes *= 2;
  unsigned heads = kThreads / lanes;
  while (heads * room_a_head > kRoom) heads /= 2;
  return {lanes, heads};
}

struct Forward {
  template <class T>
  static void run(const NormedRotaryArguments& a, int64_t rows) {
    const bool packed = takes_packs<T>(a);
    const auto kernel = packed ? forward<T, kTogether, 1> : forward<T, 1, kAlone>;
    kernel<<<static_cast<unsigned>(rows), threads_of(a, packed, 0), 0, c10::cuda::getCurrentCUDAStream()>>>(a);
    check_launch("normed_rotary");
  }
};

struct Backward {
  template <class T>
  static void run(const NormedRotaryArguments& a, int64_t rows) {
    const bool packed = takes_packs<T>(a);
    const size_t room = static_cast<size_t>(2 * a.half_width) * sizeof(Arithmetic<T>);
    const dim3 threads = threads_of(a, packed, room);
    const auto blocks = static_cast<unsigned>((rows + kRmsNormChunk - 1) / kRmsNormChunk);
    const auto kernel = packed ? backward<T, kTogether, 1> : backward<T, 1, kAlone>;
    kernel<<<blocks, threads, threads.y * room, c10::cuda::getCurrentCUDAStream()>>>(a, rows);
    check_launch("normed_rotary_backward");
  }
};

}  // namespace

void normed_rotary(const NormedRotaryArguments& arguments, int64_t rows) { by_dtype<Forward>(arguments, rows); }
void normed_rotary_backward(const NormedRotaryArguments& arguments, int64_t rows) { by_dtype<Backward>(arguments, rows); }

}  // namespace pimoe::cuda
