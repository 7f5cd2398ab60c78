#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

/// A row is one position of one sequence; each thread takes N pairs of one head.
template <class T, int N, class A = Arithmetic<T>>
__global__ void __launch_bounds__(kThreads, 5) turn(RotaryArguments a, int64_t rows) {
  const int64_t row = grid_row();
  if (row >= rows) return;
  const int half = static_cast<int>(a.half_width);
  const int queries = static_cast<int>(a.queries);
  const int kv_heads = static_cast<int>(a.kv_heads);
  const int heads = queries + 2 * kv_heads;
  const int packs_a_head = half / N;
  const int64_t sequence = row / a.positions;
  const int64_t position = row % a.positions;
  T* out = static_cast<T*>(a.output) + row * heads * 2 * half;
  const A* cosine = static_cast<const A*>(a.cosine) + position * half;
  const A* sine = static_cast<const A*>(a.sine) + position * half;
  const A direction = a.backward ? A(-1) : A(1);
  for (int pack = static_cast<int>(threadIdx.x); pack < heads * packs_a_head; pack += static_cast<int>(blockDim.x)) {
    const int head = pack / packs_a_head;
    const int column = pack % packs_a_head * N;
    const T* x = head_of<T>(a.input, queries, kv_heads, sequence, position, head, 2 * half) + column;
    T* y = out + head * 2 * half + column;
    auto first = load_pack<T, N>(x);
    auto second = load_pack<T, N>(x + half);
    if (head < queries + kv_heads) {
      const auto c = load_pack<A, N>(cosine + column);
      const auto s = load_pack<A, N>(sine + column);
      for (int i = 0; i < N; ++i) {
        const A left = load(first.values[i]);
        const A right = load(second.values[i]);
        const A sign = direction * s.values[i];
        store(&first.values[i], left * c.values[i] - right * sign);
        store(&second.values[i], right * c.values[i] + left * sign);
      }
    }
    store_pack(y, first);
    store_pack(y + half, second);
  }
}

struct Turn {
  template <class T>
  static void run(const RotaryArguments& a, int64_t rows) {
    const bool packed = packs_fit<T>(a.half_width, a.cosine, a.sine, a.output) && heads_align(a.input, sizeof(T), 16);
    const int64_t pairs = (a.queries + 2 * a.kv_heads) * a.half_width;
    const RowGrid grid = row_grid(rows, packed ? pairs / kPack<T> : pairs);
    const auto kernel = packed ? turn<T, kPack<T>> : turn<T, 1>;
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(a, rows);
    check_launch("rotary");
  }
};

}  // namespace

void rotary(const RotaryArguments& arguments, int64_t rows) { by_dtype<Turn>(arguments, rows); }

}  // namespace pimoe::cuda
