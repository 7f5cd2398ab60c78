#pragma once

/// The products of grouped_product_cuda.cu: one kernel for sm_90a, by what its operands are and what becomes of its results.
///
/// A block of three warpgroups stays on its multiprocessor and takes one tile of results after the other, 128 rows by 256 columns. The first
/// warpgroup brings 64 steps of the reduction at a time into a ring of stages; each of the other two multiplies them into its 64 rows
/// (registers), and then sends those away while the ring fills for the next tile. The two do not wait for each other, so that one
/// multiplies while the other sends.
///
///     rows      C[r] = A[r] W_g^T   rows r of group g; the groups' ends cut the tiles' rows    forward and gradients of rows
///     columns   C_g = A_g^T B_g     summed over the rows of group g                            gradients of weights
///
/// Rows that are gathered are copied 16 bytes at a time by the loading warpgroup's threads; all else comes by TMA.

#include "ops/hopper.cuh"
#include "ops/kernels.h"

#include <type_traits>

namespace pimoe::cuda {

/// What a tile's operand is made of. Left: rows or columns; right: weights, or columns.
enum class Operand {
  kRows,             ///< [R, k] as they lie
  kGatheredRows,     ///< row r is source[row_tokens[r]]
  kColumns,          ///< [R, columns], summed over
  kGatheredColumns,  ///< the same of gathered rows
  kWeights,          ///< [G, n, k]
  kTurnedWeights,    ///< [G, k, n]
};

enum class Outcome {
  kPlain,           ///< stored
  kSwiglu,          ///< gate and up are stored, and the hidden row made of them
  kSwigluBackward,  ///< a gradient of hidden rows: that of gate and up, and the weighed hidden row, are stored
};

struct ProductMaps {
  CUtensorMap left, right;
  CUtensorMap output;        ///< kPlain
  CUtensorMap gate_up;       ///< written by kSwiglu, read by kSwigluBackward
  CUtensorMap grad_gate_up;  ///< kSwigluBackward
  CUtensorMap hidden;        ///< kSwiglu; kSwigluBackward: weighed
};

struct ProductArguments {
  const int32_t* ends;  ///< [G]
  int groups;
  int rows;                   ///< R
  int m;                      ///< columns: rows of a result
  int n;                      ///< columns of a result; F where the outcome is hidden rows
  int k;                      ///< rows: length of the reduction
  const void* source;         ///< of gathered rows
  uint32_t source_row_bytes;  ///< of one of them
  const int32_t* row_tokens;  ///< [R]
  const float* weights;       ///< of rows, by slot; null: one
  const int32_t* slots;       ///< [R]; null: a row is its own slot
  float* dots;                ///< [ceil(n / 256), R]: each tile's part of <gradient of a hidden row, the row>; null: not wanted
  // The same places as in the maps, for rows that do not leave by whole boxes.
  __nv_bfloat16* output;
  __nv_bfloat16* gate_up;
  __nv_bfloat16* grad_gate_up;
  __nv_bfloat16* hidden;
};

namespace hopper {

constexpr int kTileRows = 128;
constexpr int kTileColumns = 256;
constexpr int kTileDepth = 64;
constexpr int kSlabBytes = 64 * 128;  ///< 64 rows of 64 numbers
constexpr int kLeftBytes = 2 * kSlabBytes;
constexpr int kRightBytes = 4 * kSlabBytes;
constexpr int kStageBytes = kLeftBytes + kRightBytes;
constexpr int kPatchBytes = 16 * 128;
constexpr int kLoaders = 128;
constexpr int kProductThreads = 3 * 128;
constexpr int kSendingWarps = 8;

template <Operand kLeft, Operand kRight, Outcome kOutcome>
struct Kind {
  static constexpr Operand left = kLeft, right = kRight;
  static constexpr Outcome outcome = kOutcome;
  static constexpr bool ragged_rows = kLeft == Operand::kRows || kLeft == Operand::kGatheredRows;
  static constexpr bool gathers_left = kLeft == Operand::kGatheredRows || kLeft == Operand::kGatheredColumns;
  static constexpr bool gathers_right = kRight == Operand::kGatheredColumns;
  static constexpr bool gathers = gathers_left || gathers_right;
  static constexpr bool gathers_columns = kLeft == Operand::kGatheredColumns || gathers_right;
  static constexpr int turned_left = ragged_rows ? 0 : 1;
  static constexpr int turned_right = kRight == Operand::kWeights ? 0 : 1;
  /// Gate and up columns of the same hidden columns lie side by side in a tile.
  static constexpr int columns = kOutcome == Outcome::kSwiglu ? kTileColumns / 2 : kTileColumns;
  /// Of a sending warp; kSwigluBackward: gate and up twice, so that the next are on their way, and hidden.
  static constexpr int patches = kOutcome == Outcome::kSwigluBackward ? 5 : 2;
  static constexpr int stages = kOutcome == Outcome::kSwigluBackward ? 3 : 4;
  static constexpr int barrier_bytes = 8 * (2 * stages + 2 * kSendingWarps);
  static constexpr int shared_bytes = 1024 + stages * kStageBytes + kSendingWarps * patches * kPatchBytes + barrier_bytes;
};

/// Where things lie in shared memory.
template <class K>
struct Layout {
  uint32_t begin;

  __device__ explicit Layout(const void* shared) : begin((shared_address(shared) + 1023) & ~1023u) {}
  __device__ uint32_t left(uint32_t stage) const { return begin + stage * kStageBytes; }
  __device__ uint32_t right(uint32_t stage) const { return left(stage) + kLeftBytes; }
  __device__ uint32_t patch(int warp, int index) const { return left(K::stages) + (warp * K::patches + index) * kPatchBytes; }
  __device__ uint32_t full(uint32_t stage) const { return patch(kSendingWarps, 0) + 8 * stage; }
  __device__ uint32_t empty(uint32_t stage) const { return full(K::stages + stage); }
  __device__ uint32_t gate_up(int warp, int buffer) const { return empty(K::stages) + 8 * (2 * warp + buffer); }
};

/// A place in the ring, and the phase that its barriers are in.
template <class K>
struct Turn {
  uint32_t stage = 0;
  uint32_t phase = 0;
  __device__ void next() {
    if (++stage == K::stages) stage = 0, phase ^= 1;
  }
};

struct Tile {
  int group, begin, end;  ///< and its rows
  int m, n;               ///< in tiles
};

/// The tiles of all groups in one line: group after group, in each in bands of 16 tiles' rows, in which rows vary fastest, so that what
/// multiprocessors work on at a time shares its operands.
template <class K>
class TileWalk {
 public:
  __device__ explicit TileWalk(const ProductArguments& a)
      : ends_(a.ends), groups_(a.groups), across_((a.n + K::columns - 1) / K::columns), down_((a.m + kTileRows - 1) / kTileRows) {
    if (groups_ > 0) enter(0, __ldg(ends_));
  }
  /// Tiles are asked for in rising order. @returns false past the last
  __device__ bool find(int index, Tile& tile) {
    while (group_ < groups_ && index >= first_ + down_ * across_) {
      first_ += down_ * across_;
      ++group_;
      if (group_ < groups_) enter(end_, __ldg(ends_ + group_));
    }
    if (group_ >= groups_) return false;
    constexpr int kBand = 16;
    const int local = index - first_;
    const int band = local / (kBand * across_);
    const int in_band = local - band * kBand * across_;
    const int height = min(kBand, down_ - band * kBand);
    tile = {group_, begin_, end_, band * kBand + in_band % height, in_band / height};
    return true;
  }

 private:
  __device__ void enter(int begin, int end) {
    begin_ = begin;
    end_ = end;
    if (K::ragged_rows) down_ = (end - begin + kTileRows - 1) / kTileRows;
  }

  const int32_t* ends_;
  int groups_, across_, down_;
  int group_ = 0, begin_ = 0, end_ = 0, first_ = 0;
};

/// Steps of kTileDepth of a tile's reduction, 0 for an empty group's weights.
template <class K>
__device__ inline int reduction_length(const ProductArguments& a, const Tile& tile) {
  return K::ragged_rows ? a.k : tile.end - tile.begin;
}
__device__ inline int steps_of(int length) { return (length + kTileDepth - 1) / kTileDepth; }

/// The warpgroup that fills the ring.
template <class K>
class Loader {
 public:
  __device__ Loader(const ProductMaps& maps, const ProductArguments& a, const Layout<K>& layout)
      : maps_(maps), a_(a), layout_(layout), thread_(threadIdx.x), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32) {}

  __device__ void run() {
    if (!K::gathers && thread_ != 0) return;
    TileWalk<K> walk(a_);
    Tile tile;
    Turn<K> turn;
    for (int index = blockIdx.x; walk.find(index, tile); index += gridDim.x) {
      const int steps = steps_of(reduction_length<K>(a_, tile));
      if constexpr (K::left == Operand::kGatheredRows) find_rows(tile);
      int next_token = K::gathers_columns ? token(tile, 0) : 0;
      for (int step = 0; step < steps; ++step) {
        const int my_token = next_token;
        if constexpr (K::gathers_columns) next_token = token(tile, step + 1);
        barrier_wait(layout_.empty(turn.stage), turn.phase ^ 1);
        if (thread_ == 0) load_boxes(tile, step, turn.stage);
        if constexpr (K::left == Operand::kGatheredRows) copy_rows(step, turn.stage);
        if constexpr (K::gathers_columns) copy_columns(tile, my_token, turn.stage);
        if constexpr (K::gathers) copies_arrive(layout_.full(turn.stage));
        turn.next();
      }
    }
    if constexpr (K::gathers) copies_wait();
  }

 private:
  static constexpr int kRowsAThread = kTileRows * 8 / kLoaders;  // eight threads for the 128 bytes of a row

  __device__ void load_boxes(const Tile& tile, int step, uint32_t stage) const {
    const uint32_t bar = layout_.full(stage);
    barrier_arrive_expecting(bar, (K::gathers_left ? 0 : kLeftBytes) + (K::gathers_right ? 0 : kRightBytes));
    const int k = step * kTileDepth;
    const uint32_t left = layout_.left(stage);
    if constexpr (K::left == Operand::kRows) load_box(left, &maps_.left, k, tile.begin + tile.m * kTileRows, bar);
    if constexpr (K::left == Operand::kColumns) {
      for (int slab = 0; slab < 2; ++slab)
        load_box(left + slab * kSlabBytes, &maps_.left, tile.m * kTileRows + 64 * slab, tile.begin + k, bar);
    }
    const uint32_t right = layout_.right(stage);
    const int n = tile.n * K::columns;
    if constexpr (K::right == Operand::kWeights) {
      load_box(right, &maps_.right, k, n, tile.group, bar);
      if constexpr (K::outcome == Outcome::kSwiglu) load_box(right + kRightBytes / 2, &maps_.right, k, a_.n + n, tile.group, bar);
    }
    if constexpr (K::right == Operand::kTurnedWeights || K::right == Operand::kColumns) {
      for (int slab = 0; slab < 4; ++slab) {
        const uint32_t to = right + slab * kSlabBytes;
        if constexpr (K::right == Operand::kColumns) {
          load_box(to, &maps_.right, n + 64 * slab, tile.begin + k, bar);
        } else {
          load_box(to, &maps_.right, n + 64 * slab, k, tile.group, bar);
        }
      }
    }
  }

  __device__ const char* row_of(int token) const {
    return static_cast<const char*>(a_.source) + static_cast<uint64_t>(static_cast<uint32_t>(token)) * a_.source_row_bytes;
  }

  /// Gathered rows: this thread copies the same 16 bytes of the same eight rows of a tile in all steps.
  __device__ void find_rows(const Tile& tile) {
    valid_ = 0;
    for (int i = 0; i < kRowsAThread; ++i) {
      const int row = tile.begin + tile.m * kTileRows + thread_ / 8 + 16 * i;
      const bool valid = row < tile.end;
      rows_[i] = row_of(valid ? __ldg(a_.row_tokens + row) : 0) + (thread_ % 8) * 16;
      valid_ |= static_cast<uint32_t>(valid) << i;
    }
  }
  __device__ void copy_rows(int step, uint32_t stage) const {
    const uint32_t to = layout_.left(stage) + (thread_ / 8) * 128 + (((thread_ % 8) ^ ((thread_ / 8) & 7)) << 4);
    const bool inside = step * kTileDepth + (thread_ % 8) * 8 < a_.k;
#pragma unroll
    for (int i = 0; i < kRowsAThread; ++i) {
      const bool valid = inside && (valid_ >> i & 1);
      copy_16(to + i * 16 * 128, valid ? rows_[i] + step * kTileDepth * 2 : a_.source, valid);
    }
  }

  // Gathered columns: a step is 64 rows, of which a warp's instruction copies one (right, 512 bytes) or two (left, 256 bytes each).
  static constexpr int kChunks = K::gathers_right ? 32 : 16;  // of 16 bytes in a row
  static constexpr int kRowsAWarp = 32 / kChunks;
  static constexpr int kRowsAtOnce = 4 * kRowsAWarp;  // by the four warps

  /// Lane l holds the token of the row that the warp's (l / kRowsAWarp)-th instruction copies, or -1 past the group's end.
  __device__ int token(const Tile& tile, int step) const {
    const int row = tile.begin + step * kTileDepth + warp_ * kRowsAWarp + lane_ % kRowsAWarp + kRowsAtOnce * (lane_ / kRowsAWarp);
    int found = -1;
    if (lane_ < 16 && row < tile.end) found = __ldg(a_.row_tokens + row);
    return found;
  }
  __device__ void copy_columns(const Tile& tile, int my_token, uint32_t stage) const {
    const int chunk = lane_ % kChunks;
    const int column = (K::gathers_right ? tile.n * kTileColumns : tile.m * kTileRows) + chunk * 8;
    const bool inside = column < (K::gathers_right ? a_.n : a_.m);
    const int first = warp_ * kRowsAWarp + lane_ / kChunks;
    const uint32_t to = (K::gathers_right ? layout_.right(stage) : layout_.left(stage)) + (chunk / 8) * kSlabBytes + first * 128;
    const uint32_t swizzled[2] = {static_cast<uint32_t>((chunk % 8) ^ (first & 7)) << 4,
                                  static_cast<uint32_t>((chunk % 8) ^ ((first + kRowsAtOnce) & 7)) << 4};
#pragma unroll
    for (int i = 0; i < kTileDepth / kRowsAtOnce; ++i) {
      const int token = __shfl_sync(0xFFFFFFFFu, my_token, i * kRowsAWarp + lane_ / kChunks);
      copy_16(to + i * kRowsAtOnce * 128 + swizzled[i % 2], row_of(max(token, 0)) + (inside ? column * 2 : 0), inside && token >= 0);
    }
  }

  const ProductMaps& maps_;
  const ProductArguments& a_;
  const Layout<K>& layout_;
  int thread_, lane_, warp_;
  const char* rows_[kRowsAThread];
  uint32_t valid_ = 0;
};

/// A warp's 16 rows of 64 columns in TMA's 128-byte swizzle: chunks of 16 bytes are XORed with the row.
struct Patch {
  uint32_t begin;
  int lane;

  /// Of four matrices: rows 0 and 8 of columns 8j, then of columns 8j + 8, as they lie in a product's registers.
  __device__ uint32_t quarter(int j) const {
    const int row = lane % 16;
    return begin + row * 128 + (((j + lane / 16) ^ (row & 7)) << 4);
  }
  /// Rows [first, last), fewer than 16, to a matrix of this row stride; columns below `columns`.
  __device__ void store_some(__nv_bfloat16* to, int64_t stride, int first, int last, int column, int columns) const {
    const int c = column + (lane % 8) * 8;
    for (int row = lane / 8; first + row < last; row += 4) {
      if (c >= columns) continue;
      *reinterpret_cast<uint4*>(to + (first + row) * stride + c) = load_16(begin + row * 128 + (((lane % 8) ^ (row & 7)) << 4));
    }
  }
};

/// One of the two warpgroups that multiply.
template <class K>
class Multiplier {
 public:
  __device__ Multiplier(const ProductMaps& maps, const ProductArguments& a, const Layout<K>& layout)
      : maps_(maps),
        a_(a),
        layout_(layout),
        half_(threadIdx.x / 128 - 1),
        thread_(threadIdx.x % 128),
        lane_(threadIdx.x % 32),
        warp_(threadIdx.x / 32 - 4) {}

  __device__ void run() {
    TileWalk<K> walk(a_);
    Turn<K> turn;
    Tile tile;
    int index = blockIdx.x;
    bool more = walk.find(index, tile);
    while (more) {
      enter(tile);
      float sums[128];
#pragma unroll
      for (float& sum : sums) sum = 0.0f;
      const int length = reduction_length<K>(a_, tile);
      const int steps = steps_of(length);
      uint32_t used = 0;
      for (int step = 0; step < steps; ++step) {
        barrier_wait(layout_.full(turn.stage), turn.phase);
        if constexpr (!K::ragged_rows) {
          if (const int tail = length - step * kTileDepth; tail < kTileDepth) clear_from(tail, turn.stage);
        }
        if constexpr (K::gathers) proxy_fence();
        multiply(sums, turn.stage);
        if (step > 0) {
          products_wait<1>();
          release(used);
        }
        used = turn.stage;
        turn.next();
      }
      // What the next tile is comes from memory: asked for before the last products are waited for.
      index += gridDim.x;
      more = walk.find(index, tile);
      products_wait<0>();
      if (steps > 0) release(used);
#pragma unroll
      for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
      send(sums);
    }
    if (lane_ == 0) stores_wait();
  }

 private:
  __device__ void release(uint32_t stage) const {
    if (lane_ == 0) barrier_arrive(layout_.empty(stage));
  }

  __device__ void enter(const Tile& tile) {
    first_ = (K::ragged_rows ? tile.begin : 0) + tile.m * kTileRows + warp_ * 16;
    last_ = K::ragged_rows ? tile.end : a_.m;
    column_ = tile.n * K::columns;
    group_ = K::ragged_rows ? 0 : tile.group;
    tile_column_ = tile.n;
    if constexpr (K::outcome == Outcome::kSwigluBackward) {
      if (lane_ == 0) {
        stores_have_read<0>();
        load_gate_up(0);
        load_gate_up(1);
      }
    }
    if constexpr (K::outcome != Outcome::kPlain) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = first_ + lane_ / 4 + 8 * i;
        weight_[i] = 1.0f;
        if (a_.weights != nullptr && row < last_) weight_[i] = __ldg(a_.weights + (a_.slots != nullptr ? __ldg(a_.slots + row) : row));
      }
    }
  }

  /// What follows a group's last row belongs to the next group, or was never written.
  __device__ void clear_from(int tail, uint32_t stage) const {
    const auto clear = [&](uint32_t slab) {
      for (int i = tail * 8 + thread_; i < kSlabBytes / 16; i += 128) clear_16(slab + i * 16);
    };
    if constexpr (!K::gathers_left) clear(layout_.left(stage) + half_ * kSlabBytes);
    if constexpr (!K::gathers_right) {
      for (int slab = 0; slab < 4; ++slab) clear(layout_.right(stage) + slab * kSlabBytes);
    }
    proxy_fence();
    asm volatile("bar.sync %0, 128;" ::"r"(1 + half_) : "memory");
  }

  __device__ void multiply(float (&sums)[128], uint32_t stage) const {
    const uint64_t left = operand(layout_.left(stage) + half_ * kSlabBytes, kSlabBytes);
    const uint64_t right = operand(layout_.right(stage), kSlabBytes);
    // Sixteen steps further, in units of 16 bytes: along a row 32 bytes, else 16 rows.
    constexpr int kLeftStep = K::turned_left ? 128 : 2;
    constexpr int kRightStep = K::turned_right ? 128 : 2;
    products_begin();
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply_64x256x16<K::turned_left, K::turned_right>(sums, left + i * kLeftStep, right + i * kRightStep);
    products_commit();
  }

  __device__ Patch patch(int index) const { return {layout_.patch(warp_, index), lane_}; }

  /// Whole patches leave by TMA, which leaves out what is beyond the tensor; of a group's last rows each is looked at.
  __device__ bool whole() const { return !K::ragged_rows || first_ + 16 <= last_; }
  __device__ void send_patch(const CUtensorMap* map, const Patch& from, __nv_bfloat16* to, int64_t stride, int column, int plane) const {
    if (whole()) {
      if (lane_ == 0) store_box(map, from.begin, column, first_, plane);
    } else {
      from.store_some(to, stride, first_, last_, column, a_.n);
    }
  }
  /// Before patches are written again, after all but N groups have left.
  template <int N>
  __device__ void patches_are_free() const {
    if (lane_ == 0) stores_have_read<N>();
    __syncwarp();
  }
  __device__ void patches_are_written() const {
    proxy_fence();
    __syncwarp();
  }
  __device__ void patches_are_sent() const {
    if (lane_ == 0) stores_commit();
    if (!whole()) __syncwarp();
  }

  __device__ void send(const float (&sums)[128]) {
    if constexpr (K::outcome == Outcome::kPlain) send_plain(sums);
    if constexpr (K::outcome == Outcome::kSwiglu) send_swiglu(sums);
    if constexpr (K::outcome == Outcome::kSwigluBackward) send_swiglu_backward(sums);
  }

  __device__ void send_plain(const float (&sums)[128]) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const Patch to = patch(c % 2);
      patches_are_free<1>();
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) r[i] = pack(sums[32 * c + 4 * j + 2 * i], sums[32 * c + 4 * j + 2 * i + 1]);
        store_matrices(to.quarter(j), r);
      }
      patches_are_written();
      send_patch(&maps_.output, to, a_.output, a_.n, column_ + 64 * c, group_);
      patches_are_sent();
    }
  }

  __device__ void send_swiglu(const float (&sums)[128]) const {
    const int64_t width = a_.n;
    uint32_t hidden[32];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      patches_are_free<0>();
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        uint32_t gate[4], up[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = 32 * c + 4 * j + 2 * i;
          gate[i] = pack(sums[at], sums[at + 1]);
          up[i] = pack(sums[64 + at], sums[64 + at + 1]);
          const float2 g = unpack(gate[i]), u = unpack(up[i]);
          const float w = weight_[i % 2];
          hidden[16 * c + 2 * j + i] = pack(w * g.x * logistic(g.x) * u.x, w * g.y * logistic(g.y) * u.y);
        }
        store_matrices(patch(0).quarter(j), gate);
        store_matrices(patch(1).quarter(j), up);
      }
      patches_are_written();
      send_patch(&maps_.gate_up, patch(0), a_.gate_up, 2 * width, column_ + 64 * c, 0);
      send_patch(&maps_.gate_up, patch(1), a_.gate_up + width, 2 * width, column_ + 64 * c, 1);
      patches_are_sent();
    }
    patches_are_free<0>();
#pragma unroll
    for (int j = 0; j < 16; j += 2) {
      const uint32_t r[4] = {hidden[2 * j], hidden[2 * j + 1], hidden[2 * j + 2], hidden[2 * j + 3]};
      store_matrices(patch(j / 8).quarter(j % 8), r);
    }
    patches_are_written();
    send_patch(&maps_.hidden, patch(0), a_.hidden, width, column_, 0);
    send_patch(&maps_.hidden, patch(1), a_.hidden, width, column_ + 64, 0);
    patches_are_sent();
  }

  __device__ void load_gate_up(int chunk) const {
    const int buffer = chunk % 2;
    const uint32_t bar = layout_.gate_up(warp_, buffer);
    barrier_arrive_expecting(bar, 2 * kPatchBytes);
    load_box(patch(2 * buffer).begin, &maps_.gate_up, column_ + 64 * chunk, first_, 0, bar);
    load_box(patch(2 * buffer + 1).begin, &maps_.gate_up, column_ + 64 * chunk, first_, 1, bar);
  }

  /// With s the logistic function of the gate x, u up, d the gradient of a hidden number before it was weighed by w, h = x s u:
  /// gradient of x: w d u s (1 + x (1 - s)), of u: w d x s; of w: the sum of d h over the row.
  __device__ void send_swiglu_backward(const float (&sums)[128]) {
    const int64_t width = a_.n;
    float dot[2] = {0.0f, 0.0f};
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const Patch gate = patch(2 * (c % 2)), up = patch(2 * (c % 2) + 1), hidden = patch(4);
      if (c > 0) {
        // What the chunk before wrote has left by now: the chunk after this one takes its place.
        if (lane_ == 0) {
          stores_have_read<0>();
          if (c < 3) load_gate_up(c + 1);
        }
        __syncwarp();
      }
      barrier_wait(layout_.gate_up(warp_, c % 2), c / 2);
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        uint32_t g4[4], u4[4], h4[4];
        load_matrices(gate.quarter(j), g4);
        load_matrices(up.quarter(j), u4);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 g = unpack(g4[i]), u = unpack(u4[i]);
          float2 grad_gate, grad_up, weighed;
          const auto one = [&](float x, float up_value, float d, float& grad_x, float& grad_u, float& h) {
            const float s = logistic(x);
            const float silu = x * s;
            h = silu * up_value;
            dot[i % 2] += d * h;
            h *= weight_[i % 2];
            d *= weight_[i % 2];
            grad_x = d * up_value * (s + silu - silu * s);
            grad_u = d * silu;
          };
          const int at = 32 * c + 4 * j + 2 * i;
          one(g.x, u.x, sums[at], grad_gate.x, grad_up.x, weighed.x);
          one(g.y, u.y, sums[at + 1], grad_gate.y, grad_up.y, weighed.y);
          g4[i] = pack(grad_gate.x, grad_gate.y);
          u4[i] = pack(grad_up.x, grad_up.y);
          h4[i] = pack(weighed.x, weighed.y);
        }
        store_matrices(gate.quarter(j), g4);
        store_matrices(up.quarter(j), u4);
        store_matrices(hidden.quarter(j), h4);
      }
      patches_are_written();
      send_patch(&maps_.grad_gate_up, gate, a_.grad_gate_up, 2 * width, column_ + 64 * c, 0);
      send_patch(&maps_.grad_gate_up, up, a_.grad_gate_up + width, 2 * width, column_ + 64 * c, 1);
      send_patch(&maps_.hidden, hidden, a_.hidden, width, column_ + 64 * c, 0);
      patches_are_sent();
    }
    if (a_.dots == nullptr) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      dot[i] += __shfl_xor_sync(0xFFFFFFFFu, dot[i], 1);
      dot[i] += __shfl_xor_sync(0xFFFFFFFFu, dot[i], 2);
      const int row = first_ + lane_ / 4 + 8 * i;
      if (lane_ % 4 == 0 && row < last_) a_.dots[static_cast<int64_t>(tile_column_) * a_.rows + row] = dot[i];
    }
  }

  __device__ static float logistic(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

  const ProductMaps& maps_;
  const ProductArguments& a_;
  const Layout<K>& layout_;
  int half_, thread_, lane_, warp_;
  // Of this warp's part of the tile.
  int first_, last_, column_, group_, tile_column_;
  float weight_[2];
};

template <class K>
__global__ void __launch_bounds__(kProductThreads, 1) grouped_product(const __grid_constant__ ProductMaps maps, const ProductArguments a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t shared[];
  const Layout<K> layout(shared);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < K::stages; ++stage) {
      barrier_init(layout.full(stage), 1 + (K::gathers ? kLoaders : 0));
      barrier_init(layout.empty(stage), kSendingWarps);
    }
    for (int warp = 0; warp < kSendingWarps; ++warp) {
      for (int buffer = 0; buffer < 2; ++buffer) barrier_init(layout.gate_up(warp, buffer), 1);
    }
    barriers_are_ready();
  }
  __syncthreads();
  // Together all of a multiprocessor's registers: those who multiply hold 128 sums each.
  if (threadIdx.x < kLoaders) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
    Loader<K>(maps, a, layout).run();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
    Multiplier<K>(maps, a, layout).run();
  }
#else
  __trap();  // built for another architecture than sm_90a: an error, not results that nobody wrote
#endif
}

}  // namespace hopper
}  // namespace pimoe::cuda
