#include "ops/cuda_math.cuh"

namespace pimoe::cuda {
namespace {

/// A row is one position of one sequence; each thread takes N pairs of one head.
template <class T, int N, class A = Arithmetic<T>>
__global__ void turn(RotaryArguments a, int64_t rows) {
  const int64_t row = grid_row();
  if (row >= rows) return;
  const int half = static_cast<int>(a.half_width);
  const int packs_a_head = half / N;
  const T* in = static_cast<const T*>(a.input) + row * a.heads * 2 * half;
  T* out = static_cast<T*>(a.output) + row * a.heads * 2 * half;
  const A* cosine = static_cast<const A*>(a.cosine) + row % a.positions * half;
  const A* sine = static_cast<const A*>(a.sine) + row % a.positions * half;
  const A direction = a.backward ? A(-1) : A(1);
  for (int pack = static_cast<int>(threadIdx.x); pack < a.heads * packs_a_head; pack += static_cast<int>(blockDim.x)) {
    const int head = pack / packs_a_head;
    const int column = pack % packs_a_head * N;
    const T* x = in + head * 2 * half + column;
    T* y = out + head * 2 * half + column;
    auto first = load_pack<T, N>(x);
    auto second = load_pack<T, N>(x + half);
    if (head < a.rotated_heads) {
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
    const bool packed = packs_fit<T>(a.half_width, a.input, a.cosine, a.sine, a.output);
    const int64_t pairs = a.heads * a.half_width;
    const RowGrid grid = row_grid(rows, packed ? pairs / kPack<T> : pairs);
    const auto kernel = packed ? turn<T, kPack<T>> : turn<T, 1>;
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(a, rows);
    check_launch("rotary");
  }
};

}  // namespace

void rotary(const RotaryArguments& arguments, int64_t rows) { by_dtype<Turn>(arguments, rows); }

}  // namespace pimoe::cuda
