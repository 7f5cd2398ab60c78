#pragma once

/// What the loading and the multiplying side of grouped_product_kernel.cuh agree on: operands and outcomes, tiles and their order, and shared memory
/// with its barriers. A stage is `full` when all that was announced of it has come (one arrival for TMA's, and one of each loading thread where rows
/// are gathered), and `empty` when each of the eight warps that multiply has arrived, in both blocks of the cluster, which write into each other's.

#include "ops/hopper.cuh"
#include "ops/kernels.h"

#include <type_traits>

namespace pimoe::cuda {

/// What a tile's operand is made of. Left: rows or columns; right: weights, or columns.
enum class Operand {
  kRows,             ///< [R, k] as they lie
  kGatheredRows,     ///< row r is source[row_tokens[r]]
  kColumns,          ///< [R, columns], summed over
  kGatheredColumns,  ///< the same of gathered rows; left alone
  kWeights,          ///< [G, n, k]
  kTurnedWeights,    ///< [G, k, n]
};

enum class Outcome {
  kPlain,           ///< stored
  kSum,             ///< stored in float32, or added to what is there
  kSwiglu,          ///< gate and up are stored, and the hidden row made of them
  kSwigluBackward,  ///< a gradient of hidden rows: that of gate and up, and the weighed hidden row, are stored
};

struct ProductMaps {
  CUtensorMap left, right;
  CUtensorMap output;  ///< kPlain, kSum
};

/// What a cluster computes of a group's gradient of weights: of its pairs of tiles number `first`, and from there on each that is as many further as
/// there are clusters.
struct GroupTurn {
  int32_t group, begin, end;  ///< and its rows
  int32_t first;
};
static_assert(sizeof(GroupTurn) * kMostClusters == turn_bytes(1));

struct ProductArguments {
  const int32_t* ends;  ///< [G]
  const int4* turns;    ///< [clusters, G]: GroupTurns, in the order in which they come; of columns
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
  bool adds;                  ///< kSum
  float* dots;             ///< [ceil(n / 128), R]: the part that 128 columns have of <gradient of a hidden row, the row>; null: not wanted
  __nv_bfloat16* output;   ///< kPlain: as in the map, for rows that do not leave by whole boxes
  __nv_bfloat16* gate_up;  ///< written by kSwiglu, read by kSwigluBackward
  __nv_bfloat16* grad_gate_up;  ///< kSwigluBackward
  __nv_bfloat16* hidden;        ///< kSwiglu; kSwigluBackward: weighed
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
constexpr int kSendingBytes = 2 * kPatchBytes;  ///< of a sending warp: two patches, or what it hands over
constexpr int kProductThreads = 3 * 128;
constexpr int kSendingWarps = 8;
constexpr int kHandedRows = 16;  ///< of a sending warp, at a time
constexpr int kHandedColumns = kTileColumns / 2;
constexpr int kClusterBlocks = 2;

template <Operand kLeft, Operand kRight, Outcome kOutcome>
struct Kind {
  static constexpr Operand left = kLeft, right = kRight;
  static constexpr Outcome outcome = kOutcome;
  static constexpr bool ragged_rows = kLeft == Operand::kRows || kLeft == Operand::kGatheredRows;
  static constexpr bool gathers = kLeft == Operand::kGatheredRows || kLeft == Operand::kGatheredColumns;
  static constexpr int turned_left = ragged_rows ? 0 : 1;
  static constexpr int turned_right = kRight == Operand::kWeights ? 0 : 1;
  /// Gate and up columns of the same hidden columns lie side by side in a tile.
  static constexpr int columns = kOutcome == Outcome::kSwiglu ? kTileColumns / 2 : kTileColumns;
  /// Three warps of the first warpgroup do not load, but finish what the other two hand over.
  static constexpr bool finishes = kOutcome == Outcome::kSwiglu || kOutcome == Outcome::kSwigluBackward;
  static constexpr int finishers = finishes ? 96 : 0;
  static constexpr int loaders = 128 - finishers;
  static constexpr int stages = 4;
  static constexpr int barrier_bytes = 8 * (2 * stages + 2 * kSendingWarps);
  static constexpr int shared_bytes = 1024 + stages * kStageBytes + kSendingWarps * kSendingBytes + barrier_bytes;
};

/// Where things lie in shared memory.
template <class K>
struct Layout {
  uint32_t begin;

  __device__ explicit Layout(const void* shared) : begin((shared_address(shared) + 1023) & ~1023u) {}
  __device__ uint32_t left(uint32_t stage) const { return begin + stage * kStageBytes; }
  __device__ uint32_t right(uint32_t stage) const { return left(stage) + kLeftBytes; }
  __device__ uint32_t sending(int warp) const { return left(K::stages) + warp * kSendingBytes; }
  __device__ uint32_t patch(int warp, int index) const { return sending(warp) + index * kPatchBytes; }
  /// 16 bytes of a handed-over row; XORed, so that neither eight rows nor a row's chunks are in the same banks.
  __device__ uint32_t handed_chunk(int warp, int row, int chunk) const {
    return sending(warp) + row * (kHandedColumns * 2) + ((chunk ^ (row & 7)) << 4);
  }
  __device__ uint32_t full(uint32_t stage) const { return sending(kSendingWarps) + 8 * stage; }
  __device__ uint32_t empty(uint32_t stage) const { return full(K::stages + stage); }
  __device__ uint32_t handed(int warp) const { return empty(K::stages) + 8 * warp; }
  __device__ uint32_t taken(int warp) const { return handed(kSendingWarps + warp); }
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

__host__ __device__ inline int pairs_of(int rows) { return (rows + kClusterBlocks * kTileRows - 1) / (kClusterBlocks * kTileRows); }

struct Tile {
  int group, begin, end;  ///< and its rows
  int m, n;               ///< in tiles
  bool idle;              ///< below the last row: its block only does its part for the other's
};

/// A cluster's pairs of tiles, one above the other, for its two blocks: group after group, in each in bands of 8 pairs, in which rows vary fastest, so
/// that what multiprocessors work on at a time shares its operands. Tiles of rows all take the same time, and clusters take them by turns; those of
/// columns take as long as their group has rows, and are dealt out beforehand (deal_turns).
template <class K>
class TileWalk {
 public:
  __device__ explicit TileWalk(const ProductArguments& a)
      : a_(a),
        clusters_(static_cast<int>(gridDim.x) / kClusterBlocks),
        across_((a.n + K::columns - 1) / K::columns),
        rows_(a.m),
        down_(pairs_of(a.m)) {
    const int cluster = static_cast<int>(blockIdx.x) / kClusterBlocks;
    if constexpr (K::ragged_rows) {
      local_ = cluster;
      if (a.groups > 0) enter(0, __ldg(a.ends));
    } else {
      turns_ = a.turns + static_cast<int64_t>(cluster) * a.groups;
      local_ = down_ * across_;  // nothing of the group before the first one
      group_ = place_ = -1;
      if (a.groups > 0) following_ = __ldg(turns_);
    }
  }

  /// @returns false past the last
  __device__ bool next(Tile& tile) {
    while (local_ >= down_ * across_) {
      if constexpr (K::ragged_rows) {
        local_ -= down_ * across_;
        if (++group_ >= a_.groups) return false;
        enter(end_, __ldg(a_.ends + group_));
      } else {
        if (++place_ >= a_.groups) return false;
        group_ = following_.x;
        begin_ = following_.y;
        end_ = following_.z;
        local_ = following_.w;
        if (place_ + 1 < a_.groups) following_ = __ldg(turns_ + place_ + 1);
      }
    }
    constexpr int kBand = 8;
    const int band = local_ / (kBand * across_);
    const int in_band = local_ - band * kBand * across_;
    const int height = min(kBand, down_ - band * kBand);
    const int m = kClusterBlocks * (band * kBand + in_band % height) + static_cast<int>(rank_in_cluster());
    tile = {group_, begin_, end_, m, in_band / height, m * kTileRows >= rows_};
    local_ += clusters_;
    return true;
  }

 private:
  __device__ void enter(int begin, int end) {
    begin_ = begin;
    end_ = end;
    rows_ = end - begin;
    down_ = pairs_of(rows_);
  }

  const ProductArguments& a_;
  const int4* turns_ = nullptr;
  int clusters_, across_, rows_, down_;
  int group_ = 0, begin_ = 0, end_ = 0;
  int local_;            ///< the next pair, counted from the group's first
  int place_ = 0;        ///< of columns: in turns_
  int4 following_ = {};  ///< turns_[place_ + 1], asked for ahead
};

/// Steps of kTileDepth of a tile's reduction, 0 for an empty group's weights.
template <class K>
__device__ inline int reduction_length(const ProductArguments& a, const Tile& tile) {
  return K::ragged_rows ? a.k : tile.end - tile.begin;
}
__host__ __device__ inline int steps_of(int length) { return (length + kTileDepth - 1) / kTileDepth; }

}  // namespace hopper
}  // namespace pimoe::cuda
