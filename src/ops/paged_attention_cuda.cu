#include "ops/cuda_math.cuh"
#include "ops/paged_attention_kernel.h"

#include <cmath>

namespace pimoe::cuda {
namespace {

constexpr int kBlock = 128;    ///< threads, and positions that they look at together
constexpr int kMostRows = 8;   ///< queries that share a reading of keys and values
constexpr int kMostPacks = 4;  ///< columns of a value that one thread sums

/// Each thread moves one number of one head of one token.
template <class T>
__global__ void __launch_bounds__(kThreads) keep(PagedGpuArguments a) {
  const int64_t token = blockIdx.x;
  const int64_t slot = a.slots[token];
  const int64_t page = slot / a.page_tokens, offset = slot % a.page_tokens;
  const int64_t keys = a.kv_heads * a.width;
  for (int64_t at = threadIdx.x; at < keys + a.kv_heads * a.value_width; at += blockDim.x) {
    if (at < keys) {
      const int64_t head = at / a.width, column = at % a.width;
      static_cast<T*>(a.keys)[((page * a.kv_heads + head) * a.width + column) * a.page_tokens + offset] =
          static_cast<const T*>(a.new_keys)[token * a.key_stride + head * a.key_head_stride + column];
    } else {
      const int64_t head = (at - keys) / a.value_width, column = (at - keys) % a.value_width;
      static_cast<T*>(a.values)[((page * a.kv_heads + head) * a.page_tokens + offset) * a.value_width + column] =
          static_cast<const T*>(a.new_values)[token * a.value_stride + head * a.value_head_stride + column];
    }
  }
}

/// The same in every lane.
template <class A>
__device__ inline A warp_most(A value) {
  for (int offset = 16; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(0xFFFFFFFFu, value, offset));
  return value;
}

/// What the warps of a block have found of each row, brought together in the same order in every thread.
template <class A, int R, class Join>
__device__ inline void join_warps(A (&values)[R], A (*of_warps)[kMostRows], const Join& join) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  __syncthreads();  // what was there before has been read
  if (threadIdx.x % 32 == 0) {
    for (int r = 0; r < R; ++r) of_warps[warp][r] = values[r];
  }
  __syncthreads();
  for (int r = 0; r < R; ++r) {
    values[r] = of_warps[0][r];
    for (int other = 1; other < kBlock / 32; ++other) values[r] = join(values[r], of_warps[other][r]);
  }
}

/// A block takes one run, one head of keys and kPagedSplit positions, R rows (a token and a query head each) at a time: scores of kBlock positions, a
/// thread for each; their shares by the largest score so far; then the weighted values, a thread for each column and every few positions.
template <class T, int R, int N, class A = Arithmetic<T>>
__global__ void __launch_bounds__(kBlock) attend(PagedGpuArguments a, int splits) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  A* const queries = reinterpret_cast<A*>(shared_bytes);  // [d, R]
  __shared__ __align__(16) A shares[kBlock * R];
  __shared__ int64_t pages[kBlock];
  __shared__ A of_warps[kBlock / 32][kMostRows];

  const int4 run = reinterpret_cast<const int4*>(a.run_table)[blockIdx.x];
  const int first_token = run.x, first = run.y, count = run.z;
  const int kv_head = static_cast<int>(blockIdx.y), split = static_cast<int>(blockIdx.z);
  const int begin = split * static_cast<int>(kPagedSplit);
  const int end = min(begin + static_cast<int>(kPagedSplit), first + count);
  if (begin >= end) return;
  const int32_t* const table = a.pages + run.w * a.table_width;
  const int width = static_cast<int>(a.width), value_width = static_cast<int>(a.value_width);
  const int page_tokens = static_cast<int>(a.page_tokens);
  const int group = static_cast<int>(a.heads / a.kv_heads);
  const int thread = static_cast<int>(threadIdx.x);
  int across = 32;  // threads beside each other in a value
  while (across < kBlock && across < value_width) across *= 2;
  const int column = thread % across, turn = thread / across, turns = kBlock / across;
  const A none = -static_cast<A>(INFINITY);
  const auto token_of = [&](int row) { return first_token + row / group; };
  const auto head_of_row = [&](int row) { return kv_head * group + row % group; };

  for (int row = 0; row < count * group; row += R) {
    __syncthreads();
    for (int at = thread; at < width * R; at += kBlock) {
      const int r = at % R, i = at / R;
      A value = 0;
      if (row + r < count * group) {
        value = load(static_cast<const T*>(a.queries)[token_of(row + r) * a.query_stride + head_of_row(row + r) * width + i]);
      }
      queries[at] = value * static_cast<A>(a.scale);
    }
    A most[R], sum[R], mixed[R][N];
    for (int r = 0; r < R; ++r) {
      most[r] = none;
      sum[r] = 0;
      for (int n = 0; n < N; ++n) mixed[r][n] = 0;
    }
    for (int tile = begin; tile < end; tile += kBlock) {
      const int position = tile + thread;
      A score[R];
      for (int r = 0; r < R; ++r) score[r] = 0;
      __syncthreads();  // the queries are there, and the last tile's shares have been read
      if (position < end) {
        const int64_t page = static_cast<int64_t>(table[position / page_tokens]) * a.kv_heads + kv_head;
        pages[thread] = page * page_tokens + position % page_tokens;
        const T* const key = static_cast<const T*>(a.keys) + page * width * page_tokens + position % page_tokens;
#pragma unroll 8
        for (int i = 0; i < width; ++i) {
          const A k = load(key[i * page_tokens]);
          for (int r = 0; r < R; ++r) score[r] += queries[i * R + r] * k;
        }
      }
      A highest[R];
      for (int r = 0; r < R; ++r) {
        if (position >= end || position > first + (row + r) / group) score[r] = none;
        highest[r] = warp_most(score[r]);
      }
      join_warps(highest, of_warps, [](A left, A right) { return max(left, right); });
      A added[R], kept[R];
      for (int r = 0; r < R; ++r) {
        highest[r] = max(highest[r], most[r]);
        const bool sees = highest[r] != none;
        const A share = sees ? exponential(score[r] - highest[r]) : 0;
        kept[r] = sees ? exponential(most[r] - highest[r]) : 1;
        most[r] = highest[r];
        shares[thread * R + r] = share;
        added[r] = warp_sum(share);
      }
      join_warps(added, of_warps, [](A left, A right) { return left + right; });
      for (int r = 0; r < R; ++r) {
        sum[r] = sum[r] * kept[r] + added[r];
        for (int n = 0; n < N; ++n) mixed[r][n] *= kept[r];
      }
      const int tiles = min(kBlock, end - tile);
#pragma unroll 4
      for (int at = turn; at < tiles; at += turns) {
        const T* const value = static_cast<const T*>(a.values) + pages[at] * value_width;
        for (int n = 0; n < N; ++n) {
          if (column + n * across >= value_width) continue;
          const A v = load(value[column + n * across]);
          for (int r = 0; r < R; ++r) mixed[r][n] += shares[at * R + r] * v;
        }
      }
    }
    // What threads have of the same column; there is one pack then, or one turn.
    if (turns > 1) {
      __syncthreads();
      for (int r = 0; r < R; ++r) shares[thread * R + r] = mixed[r][0];
      __syncthreads();
      for (int r = 0; turn == 0 && r < R; ++r) {
        for (int other = 1; other < turns; ++other) mixed[r][0] += shares[(thread + other * across) * R + r];
      }
    }
    for (int r = 0; turn == 0 && r < R && row + r < count * group; ++r) {
      const int64_t place = static_cast<int64_t>(token_of(row + r)) * a.heads + head_of_row(row + r);
      const int64_t part = split * a.tokens * a.heads + place;
      for (int n = 0; n < N; ++n) {
        const int at = column + n * across;
        if (at >= value_width) continue;
        if (splits == 1) {
          store(static_cast<T*>(a.output) + place * value_width + at, mixed[r][n] / sum[r]);
        } else {
          static_cast<A*>(a.sums)[part * value_width + at] = mixed[r][n];
        }
      }
      if (splits > 1 && column == 0) {
        static_cast<A*>(a.shares)[2 * part] = most[r];
        static_cast<A*>(a.shares)[2 * part + 1] = sum[r];
      }
    }
  }
}

/// A block adds up the splits of one token.
template <class T, class A = Arithmetic<T>>
__global__ void __launch_bounds__(kBlock) join_splits(PagedGpuArguments a) {
  const int4 run = reinterpret_cast<const int4*>(a.run_table)[blockIdx.x];
  const int of_run = static_cast<int>(blockIdx.y);
  if (of_run >= run.z) return;
  const int64_t token = run.x + of_run;
  const int splits = (run.y + run.z + static_cast<int>(kPagedSplit) - 1) / static_cast<int>(kPagedSplit);
  const int64_t stride = a.tokens * a.heads;
  for (int64_t at = threadIdx.x; at < a.heads * a.value_width; at += kBlock) {
    const int64_t place = token * a.heads + at / a.value_width;
    A most = -static_cast<A>(INFINITY);
    for (int split = 0; split < splits; ++split) most = max(most, static_cast<const A*>(a.shares)[2 * (split * stride + place)]);
    A mixed = 0, sum = 0;
    for (int split = 0; split < splits; ++split) {
      const int64_t part = split * stride + place;
      const A factor = exponential(static_cast<const A*>(a.shares)[2 * part] - most);
      mixed += factor * static_cast<const A*>(a.sums)[part * a.value_width + at % a.value_width];
      sum += factor * static_cast<const A*>(a.shares)[2 * part + 1];
    }
    store(static_cast<T*>(a.output) + place * a.value_width + at % a.value_width, mixed / sum);
  }
}

template <class T>
size_t query_bytes(int64_t width, int rows) {
  return static_cast<size_t>(width * rows) * sizeof(Arithmetic<T>);
}

/// With what a block has of its own, this is within the 48 KiB that every GPU gives it.
constexpr size_t kMostQueryBytes = 36 << 10;

struct Keep {
  template <class T>
  static void run(const PagedGpuArguments& a, int64_t tokens) {
    keep<T><<<dim3(static_cast<unsigned>(tokens)), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(a);
    check_launch("keep_in_pages");
  }
};

struct Attend {
  template <class T>
  static void run(const PagedGpuArguments& a, int64_t runs) {
    const bool alone = a.most_of_run * (a.heads / a.kv_heads) == 1;
    const bool narrow = a.value_width <= kBlock;
    const auto kernel = alone ? (narrow ? attend<T, 1, 1> : attend<T, 1, kMostPacks>)
                              : (narrow ? attend<T, kMostRows, 1> : attend<T, kMostRows, kMostPacks>);
    const auto splits = static_cast<unsigned>(paged_splits(a.longest));
    const dim3 blocks(static_cast<unsigned>(runs), static_cast<unsigned>(a.kv_heads), splits);
    const auto stream = c10::cuda::getCurrentCUDAStream();
    kernel<<<blocks, kBlock, query_bytes<T>(a.width, alone ? 1 : kMostRows), stream>>>(a, static_cast<int>(splits));
    check_launch("paged_attention");
    if (splits == 1) return;
    join_splits<T><<<dim3(static_cast<unsigned>(runs), static_cast<unsigned>(a.most_of_run)), kBlock, 0, stream>>>(a);
    check_launch("paged_attention's sums");
  }
};

}  // namespace

void keep_in_pages(const PagedGpuArguments& arguments) { by_dtype<Keep>(arguments, arguments.tokens); }

bool has_paged_attention(Dtype dtype, int64_t width, int64_t value_width) {
  const size_t bytes = dtype == Dtype::kFloat64 ? query_bytes<double>(width, kMostRows) : query_bytes<float>(width, kMostRows);
  return bytes <= kMostQueryBytes && value_width <= kBlock * kMostPacks;
}

void paged_attention(const PagedGpuArguments& arguments) { by_dtype<Attend>(arguments, arguments.runs); }

}  // namespace pimoe::cuda
