#include "ops/cuda_math.cuh"

#include <cmath>

namespace pimoe::cuda {
namespace {

// Instructions of PTX (ISA 7.0) for compute capability 8.0 and later: sections 9.7.8.22 (cp.async), 9.7.13.4 (mma), 9.7.13.4.15 (ldmatrix).

__device__ inline uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

/// 16 bytes, or zeros.
__device__ inline void copy_16(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until at most N groups of this thread's copies are under way.
template <int N>
__device__ inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/// Four matrices of 8 rows of 16 bytes; lane l gives the address of row l % 8 of matrix l / 8, and gets of each bytes 4 (l % 4) on of row l / 4.
__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from));
}
__device__ inline uint2 load_8(uint32_t from) {
  uint2 value;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "r"(from));
  return value;
}
__device__ inline uint32_t load_4(uint32_t from) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(from));
  return value;
}

// sums [16, 8] += a [16, terms] b [terms, 8]
__device__ inline void multiply(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int8_t /*element*/) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16 /*element*/) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half /*element*/) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four int8 numbers, exactly, two in each register: a float that holds 2^23 + n, or a half that holds 1024 + n, has n in its lowest byte.
__device__ inline void widen(uint32_t numbers, uint32_t (&wide)[2], __nv_bfloat16 /*element*/) {
  const uint32_t from_zero = numbers ^ 0x80808080u;  // n + 128
  uint32_t values[4];
  for (int i = 0; i < 4; ++i) {
    values[i] = __float_as_uint(__uint_as_float(__byte_perm(from_zero, 0x4B000000u, 0x7540u | static_cast<uint32_t>(i))) - 8388736.0f);
  }
  wide[0] = __byte_perm(values[0], values[1], 0x7632u);  // eight bits of mantissa hold seven of a number
  wide[1] = __byte_perm(values[2], values[3], 0x7632u);
}
__device__ inline void widen(uint32_t numbers, uint32_t (&wide)[2], __half /*element*/) {
  const uint32_t from_zero = numbers ^ 0x80808080u;
  const __half2 offset = __float2half2_rn(1152.0f);
  const uint32_t pairs[2] = {__byte_perm(from_zero, 0x64646464u, 0x4140u), __byte_perm(from_zero, 0x64646464u, 0x4342u)};
  for (int i = 0; i < 2; ++i) {
    const __half2 value = __hsub2(*reinterpret_cast<const __half2*>(&pairs[i]), offset);
    wide[i] = *reinterpret_cast<const uint32_t*>(&value);
  }
}

constexpr int kTerms = 64;  ///< of a step
constexpr int kStages = 4;  ///< steps whose operands are in shared memory or on their way
constexpr int kWarpsDown = 2, kWarpsAcross = kThreads / 32 / kWarpsDown;

/// Rows of one group.
struct RowTile {
  int group, begin, end;
};

/// The tile-th of all groups' tiles of M rows; an empty one behind the last. The same in every lane.
template <int M>
__device__ inline RowTile row_tile(const int32_t* ends, int groups, int tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;
  for (int first = 0; first < groups; first += 32) {
    const int group = first + lane;
    const int begin = group < groups && group > 0 ? ends[group - 1] : 0;
    const int end = group < groups ? ends[group] : begin;
    const int tiles = group < groups ? (end - begin + M - 1) / M : 0;
    int up_to = tiles;
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFu, up_to, offset);
      if (lane >= offset) up_to += other;
    }
    const unsigned has = __ballot_sync(0xFFFFFFFFu, before + up_to > tile);
    if (has != 0) {
      const int owner = __ffs(static_cast<int>(has)) - 1;
      const int of_group = tile - before - __shfl_sync(0xFFFFFFFFu, up_to - tiles, owner);
      const int group_begin = __shfl_sync(0xFFFFFFFFu, begin, owner), group_end = __shfl_sync(0xFFFFFFFFu, end, owner);
      const int row = group_begin + of_group * M;
      return {first + owner, row, min(row + M, group_end)};
    }
    before += __shfl_sync(0xFFFFFFFFu, up_to, 31);
  }
  return {0, 0, 0};
}

/// Bytes of 16 within a tile's rows, turned from row to row so that eight rows of a column lie in different banks. Rows of int8 take 64 bytes, two in
/// a line of banks; wide ones a line each, of which a warp reads two columns at once.
template <bool kIsWide>
__device__ inline uint32_t chunk_place(int row, int chunk) {
  if constexpr (kIsWide) return static_cast<uint32_t>(row * 128 + ((chunk ^ ((row & 3) << 1)) << 4));
  return static_cast<uint32_t>(row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4));
}

__device__ inline void store_two(const Int8ProductArguments& a, int64_t row, int64_t column, float first, float second) {
  const int64_t at = row * a.channels + column;
  const bool both = column + 1 < a.channels;
  const auto write = [&](auto* out) {
    store(out + at, first);
    if (both) store(out + at + 1, second);
  };
  switch (a.output_dtype) {
    case Dtype::kFloat64: break;  // not taken (int8_products)
    case Dtype::kFloat32: return write(static_cast<float*>(a.output));
    case Dtype::kBFloat16: return write(static_cast<__nv_bfloat16*>(a.output));
    case Dtype::kFloat16: return write(static_cast<__half*>(a.output));
  }
}

/// A block takes M rows of one group and N channels. E: what is multiplied, int8 or what the rows are.
template <class E, int M, int N>
__global__ void __launch_bounds__(kThreads) products(Int8ProductArguments a) {
  constexpr bool kIsWide = sizeof(E) == 2;
  constexpr int kRowBytes = kTerms * static_cast<int>(sizeof(E));
  constexpr int kStageBytes = M * kRowBytes + N * kTerms;
  constexpr int kTilesDown = M / kWarpsDown / 16, kTilesAcross = N / kWarpsAcross / 8;
  using Sum = std::conditional_t<kIsWide, float, int32_t>;
  extern __shared__ __align__(128) unsigned char shared_bytes[];

  const RowTile tile = row_tile<M>(a.ends, static_cast<int>(a.groups), static_cast<int>(blockIdx.y));
  if (tile.begin >= tile.end) return;
  const int first_channel = static_cast<int>(blockIdx.x) * N;
  const int terms = static_cast<int>(a.terms), channels = static_cast<int>(a.channels);
  const E* const rows = static_cast<const E*>(a.rows) + static_cast<int64_t>(tile.begin) * terms;
  const int8_t* const numbers = a.numbers + (static_cast<int64_t>(tile.group) * channels + first_channel) * terms;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int warp_row = warp / kWarpsAcross * (M / kWarpsDown), warp_column = warp % kWarpsAcross * (N / kWarpsAcross);
  const uint32_t shared = shared_address(shared_bytes);

  const auto load_step = [&](int step) {
    const uint32_t rows_at = shared + static_cast<uint32_t>(step % kStages * kStageBytes), numbers_at = rows_at + M * kRowBytes;
    constexpr int kChunk = 16 / static_cast<int>(sizeof(E)), kChunks = kTerms / kChunk;
    for (int at = thread; at < M * kChunks; at += kThreads) {
      const int row = at / kChunks, chunk = at % kChunks, term = step * kTerms + chunk * kChunk;
      const bool valid = term < terms && tile.begin + row < tile.end;
      copy_16(rows_at + chunk_place<kIsWide>(row, chunk), valid ? rows + static_cast<int64_t>(row) * terms + term : rows, valid);
    }
    for (int at = thread; at < N * (kTerms / 16); at += kThreads) {
      const int channel = at / (kTerms / 16), chunk = at % (kTerms / 16), term = step * kTerms + chunk * 16;
      const bool valid = term < terms && first_channel + channel < channels;
      copy_16(numbers_at + chunk_place<false>(channel, chunk), valid ? numbers + static_cast<int64_t>(channel) * terms + term : a.numbers,
              valid);
    }
  };

  Sum sums[kTilesDown][kTilesAcross][4] = {};
  const int steps = (terms + kTerms - 1) / kTerms;
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load_step(step);
    copies_commit();
  }
  for (int step = 0; step < steps; ++step) {
    copies_wait<kStages - 2>();
    __syncthreads();  // this step's operands are there, and those of the one before have been read
    if (step + kStages - 1 < steps) load_step(step + kStages - 1);
    copies_commit();
    const uint32_t rows_at = shared + static_cast<uint32_t>(step % kStages * kStageBytes), numbers_at = rows_at + M * kRowBytes;
    if constexpr (kIsWide) {
#pragma unroll
      for (int part = 0; part < kTerms / 16; ++part) {
        // Which of the 16 terms a lane has is of no matter, as long as both operands agree: four neighbours, for one load of each.
        uint32_t right[kTilesAcross][2];
#pragma unroll
        for (int n = 0; n < kTilesAcross; ++n) {
          const int channel = warp_column + n * 8 + lane / 4;
          widen(load_4(numbers_at + chunk_place<false>(channel, part) + static_cast<uint32_t>(lane % 4 * 4)), right[n], E());
        }
#pragma unroll
        for (int m = 0; m < kTilesDown; ++m) {
          const auto pair = [&](int row) {
            return load_8(rows_at + chunk_place<true>(row, 2 * part + lane % 4 / 2) + static_cast<uint32_t>(lane % 2 * 8));
          };
          const uint2 upper = pair(warp_row + m * 16 + lane / 4), lower = pair(warp_row + m * 16 + 8 + lane / 4);
          const uint32_t left[4] = {upper.x, lower.x, upper.y, lower.y};
#pragma unroll
          for (int n = 0; n < kTilesAcross; ++n) multiply(sums[m][n], left, right[n], E());
        }
      }
    } else {
#pragma unroll
      for (int part = 0; part < kTerms / 32; ++part) {
        uint32_t right[kTilesAcross / 2][4];
#pragma unroll
        for (int n = 0; n < kTilesAcross / 2; ++n) {
          const int channel = warp_column + n * 16 + lane / 16 * 8 + lane % 8;
          load_matrices(right[n], numbers_at + chunk_place<false>(channel, 2 * part + lane / 8 % 2));
        }
#pragma unroll
        for (int m = 0; m < kTilesDown; ++m) {
          uint32_t left[4];
          load_matrices(left, rows_at + chunk_place<false>(warp_row + m * 16 + lane % 16, 2 * part + lane / 16));
#pragma unroll
          for (int n = 0; n < kTilesAcross; ++n) {
            const uint32_t pair[2] = {right[n / 2][n % 2 * 2], right[n / 2][n % 2 * 2 + 1]};
            multiply(sums[m][n], left, pair, E());
          }
        }
      }
    }
  }

  const float* const scales = a.scales + static_cast<int64_t>(tile.group) * channels;
#pragma unroll
  for (int m = 0; m < kTilesDown; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile.begin + warp_row + m * 16 + half * 8 + lane / 4;
      if (row >= tile.end) continue;
      const float row_scale = kIsWide ? 1.0f : a.row_scales[row];
#pragma unroll
      for (int n = 0; n < kTilesAcross; ++n) {
        const int channel = first_channel + warp_column + n * 8 + lane % 4 * 2;
        if (channel >= channels) continue;
        const auto scaled = [&](int i) {
          const float scale = channel + i < channels ? scales[channel + i] : 0.0f;
          return static_cast<float>(sums[m][n][half * 2 + i]) * (row_scale * scale);
        };
        store_two(a, row, channel, scaled(0), scaled(1));
      }
    }
  }
}

template <class E, int M, int N>
void launch_products(const Int8ProductArguments& a) {
  constexpr size_t kBytes = static_cast<size_t>(kStages) * (M * kTerms * sizeof(E) + N * kTerms);
  const auto kernel = products<E, M, N>;
  static const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kBytes));  // of all devices alike
  if (allowed != cudaSuccess) throw Error(std::string("CUDA kernel int8_products: ") + cudaGetErrorString(allowed));
  const dim3 blocks(static_cast<unsigned>((a.channels + N - 1) / N), static_cast<unsigned>((a.row_count + M - 1) / M + a.groups));
  kernel<<<blocks, kThreads, kBytes, c10::cuda::getCurrentCUDAStream()>>>(a);
  check_launch("int8_products");
}

template <class E>
void products_of(const Int8ProductArguments& a) {
  // Few rows for each group are read for, not computed: more blocks then read the matrices at once.
  if (a.row_count <= 32 * a.groups) return launch_products<E, 32, 64>(a);
  launch_products<E, 128, 128>(a);
}

/// A warp takes a row.
template <class T>
__global__ void __launch_bounds__(kThreads) round_rows(Int8RowsArguments a, int64_t rows) {
  const int64_t row = grid_row();
  if (row >= rows) return;
  const T* const values = static_cast<const T*>(a.values) + row * a.columns;
  float most = 0.0f;
  bool finite = true;
  for (int64_t at = threadIdx.x; at < a.columns; at += 32) {
    const float value = static_cast<float>(load(values[at]));
    finite = finite && isfinite(value);
    most = fmaxf(most, fabsf(value));
  }
  for (int offset = 16; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, offset));
  finite = __all_sync(0xFFFFFFFFu, finite);
  float scale = most / 127.0f;
  if (a.static_scales != nullptr) {
    // The group of a row: how many end at it or before.
    int group = 0;
    for (int64_t at = threadIdx.x; at < a.groups; at += 32) group += a.ends[at] <= row ? 1 : 0;
    for (int offset = 16; offset > 0; offset /= 2) group += __shfl_xor_sync(0xFFFFFFFFu, group, offset);
    scale = group < a.groups ? a.static_scales[group] : 0.0f;
  }
  const float inverse = finite && scale > 0.0f ? 1.0f / scale : 0.0f;
  int8_t* const out = a.numbers + row * a.columns;
  for (int64_t at = threadIdx.x; at < a.columns; at += 32) {
    const float number = fminf(fmaxf(rintf(static_cast<float>(load(values[at])) * inverse), -127.0f), 127.0f);
    out[at] = finite ? static_cast<int8_t>(number) : 0;
  }
  if (threadIdx.x == 0) a.scales[row] = finite ? scale : __int_as_float(0x7FC00000);
}

struct RoundRows {
  template <class T>
  static void run(const Int8RowsArguments& a, int64_t rows) {
    const RowGrid grid = warp_grid(rows);
    round_rows<T><<<grid.blocks, grid.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(a, rows);
    check_launch("int8_rows");
  }
};

}  // namespace

void int8_rows(const Int8RowsArguments& arguments, int64_t rows) { by_dtype<RoundRows>(arguments, rows); }

bool has_int8_products(int64_t terms, Dtype rows, bool wide, Dtype output) {
  return terms % 16 == 0 && output != Dtype::kFloat64 && (!wide || rows == Dtype::kBFloat16 || rows == Dtype::kFloat16);
}

void int8_products(const Int8ProductArguments& arguments) {
  if (arguments.row_scales != nullptr) return products_of<int8_t>(arguments);
  if (arguments.rows_dtype == Dtype::kBFloat16) return products_of<__nv_bfloat16>(arguments);
  products_of<__half>(arguments);
}

}  // namespace pimoe::cuda
