#include "ops/cuda_math.cuh"

#include <algorithm>

namespace pimoe::cuda {
namespace {

/// Word: 16 bytes, or 2 where rows are not multiples of 16 bytes.
template <class Word>
__global__ void gather(const Word* source, const int32_t* index, int64_t divisor, Word* output, int64_t words, int64_t rows) {
  const int64_t row = grid_row();
  if (row >= rows) return;
  const Word* from = source + index[row] / divisor * words;
  for (int64_t word = threadIdx.x; word < words; word += blockDim.x) output[row * words + word] = from[word];
}

template <class Word>
void launch_gather(const GatherArguments& a, int64_t rows) {
  const int64_t words = a.row_bytes / static_cast<int64_t>(sizeof(Word));
  const RowGrid grid = row_grid(rows, words);
  gather<Word><<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(static_cast<const Word*>(a.source), a.index, a.divisor,
                                                                                    static_cast<Word*>(a.output), words, rows);
  check_launch("gather_rows");
}

template <class Word>
__global__ void zero_from(Word* data, int64_t words, int64_t rows, const int32_t* first) {
  for (int64_t row = *first + grid_row(); row < rows; row += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    for (int64_t word = threadIdx.x; word < words; word += blockDim.x) data[row * words + word] = Word{};
  }
}

template <class Word>
void launch_zero(void* data, int64_t row_bytes, int64_t rows, const int32_t* first) {
  const int64_t words = row_bytes / static_cast<int64_t>(sizeof(Word));
  // Most often there is nothing to do, so the grid stays small and goes through the rows in strides.
  constexpr unsigned kBlocks = 512;
  const RowGrid grid = row_grid(rows, words);
  zero_from<Word><<<std::min(grid.blocks.x, kBlocks), grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(static_cast<Word*>(data), words,
                                                                                                            rows, first);
  check_launch("zero_rows_from");
}

template <class T, int N>
__global__ void combine(CombineArguments a, int64_t tokens) {
  using A = Arithmetic<T>;
  const int64_t token = grid_row();
  if (token >= tokens) return;
  const T* rows = static_cast<const T*>(a.rows);
  const A* weights = static_cast<const A*>(a.weights);
  for (int64_t column = threadIdx.x * N; column < a.width; column += blockDim.x * N) {
    A sum[N] = {};
    for (int64_t slot = token * a.choices; slot < (token + 1) * a.choices; ++slot) {
      const int64_t position = a.positions[slot];
      if (position < 0) continue;
      const A weight = weights == nullptr ? A(1) : weights[slot];
      const auto row = load_pack<T, N>(rows + position * a.width + column);
      for (int i = 0; i < N; ++i) sum[i] += weight * load(row.values[i]);
    }
    Pack<T, N> out;
    for (int i = 0; i < N; ++i) store(&out.values[i], sum[i]);
    store_pack(static_cast<T*>(a.output) + token * a.width + column, out);
  }
}

/// One warp for each slot: the row's gradient and the weight's come from one reading of the token's gradient.
template <class T, int N>
__global__ void combine_backward(CombineArguments a, int64_t slots) {
  using A = Arithmetic<T>;
  const int64_t slot = grid_row();
  if (slot >= slots) return;
  const int64_t position = a.positions[slot];
  A* grad_weights = static_cast<A*>(a.grad_weights);
  if (position < 0) {
    if (grad_weights != nullptr && threadIdx.x == 0) grad_weights[slot] = 0;
    return;
  }
  const T* grad = static_cast<const T*>(a.grad_output) + slot / a.choices * a.width;
  const A weight = a.weights == nullptr ? A(1) : static_cast<const A*>(a.weights)[slot];
  A dot = 0;
  for (int64_t column = threadIdx.x * N; column < a.width; column += 32 * N) {
    const auto d = load_pack<T, N>(grad + column);
    if (a.grad_rows != nullptr) {
      Pack<T, N> out;
      for (int i = 0; i < N; ++i) store(&out.values[i], weight * load(d.values[i]));
      store_pack(static_cast<T*>(a.grad_rows) + position * a.width + column, out);
    }
    if (grad_weights != nullptr) {
      const auto row = load_pack<T, N>(static_cast<const T*>(a.rows) + position * a.width + column);
      for (int i = 0; i < N; ++i) dot += load(d.values[i]) * load(row.values[i]);
    }
  }
  if (grad_weights == nullptr) return;
  dot = warp_sum(dot);
  if (threadIdx.x == 0) grad_weights[slot] = dot;
}

struct Combine {
  template <class T>
  static void run(const CombineArguments& a, int64_t tokens) {
    const bool packed = packs_fit<T>(a.width, a.rows, a.output);
    const RowGrid grid = row_grid(tokens, packed ? a.width / kPack<T> : a.width);
    const auto kernel = packed ? combine<T, kPack<T>> : combine<T, 1>;
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(a, tokens);
    check_launch("combine_rows");
  }
};

struct CombineBackward {
  template <class T>
  static void run(const CombineArguments& a, int64_t tokens) {
    const RowGrid grid = warp_grid(tokens * a.choices);
    const auto kernel = packs_fit<T>(a.width, a.rows, a.grad_output, a.grad_rows) ? combine_backward<T, kPack<T>> : combine_backward<T, 1>;
    kernel<<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(a, tokens * a.choices);
    check_launch("combine_rows_backward");
  }
};

}  // namespace

void gather_rows(const GatherArguments& arguments, int64_t rows) {
  const bool wide = arguments.row_bytes % 16 == 0 && is_aligned(arguments.source) && is_aligned(arguments.output);
  wide ? launch_gather<uint4>(arguments, rows) : launch_gather<uint16_t>(arguments, rows);
}

void combine_rows(const CombineArguments& arguments, int64_t tokens) { by_dtype<Combine>(arguments, tokens); }
void combine_rows_backward(const CombineArguments& arguments, int64_t tokens) { by_dtype<CombineBackward>(arguments, tokens); }

void zero_rows_from(void* data, int64_t row_bytes, int64_t rows, const int32_t* first) {
  const bool wide = row_bytes % 16 == 0 && is_aligned(data);
  wide ? launch_zero<uint4>(data, row_bytes, rows, first) : launch_zero<uint16_t>(data, row_bytes, rows, first);
}

}  // namespace pimoe::cuda
