#pragma once

#include "ops/grouped_product_plan.cuh"

namespace pimoe::cuda::hopper {

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
    while (walk.next(tile)) {
      const int steps = steps_of(reduction_length<K>(a_, tile));
      if constexpr (K::left == Operand::kGatheredRows) find_rows(tile);
      int next_token = K::left == Operand::kGatheredColumns ? token(tile, 0) : 0;
      for (int step = 0; step < steps; ++step) {
        const int my_token = next_token;
        if constexpr (K::left == Operand::kGatheredColumns) next_token = token(tile, step + 1);
        barrier_wait(layout_.empty(turn.stage), turn.phase ^ 1);
        if (thread_ == 0) load_boxes(tile, step, turn.stage);
        if constexpr (K::left == Operand::kGatheredRows) copy_rows(step, turn.stage);
        if constexpr (K::left == Operand::kGatheredColumns) copy_columns(tile, my_token, turn.stage);
        if constexpr (K::gathers) copies_arrive(layout_.full(turn.stage));
        turn.next();
      }
    }
    if constexpr (K::gathers) copies_wait();
  }

 private:
  static constexpr int kRowsAThread = kTileRows * 8 / K::loaders;  // eight threads for the 128 bytes of a row
  static_assert(kRowsAThread % 8 == 0 && kRowsAThread <= 32);

  /// The left operand for this block; of the right one half, for both blocks of the cluster.
  __device__ void load_boxes(const Tile& tile, int step, uint32_t stage) const {
    const uint32_t bar = layout_.full(stage);
    const bool loads_left = !K::gathers && !tile.idle;
    barrier_arrive_expecting(bar, (loads_left ? kLeftBytes : 0) + kRightBytes);
    const int k = step * kTileDepth;
    if (loads_left) {
      const uint32_t left = layout_.left(stage);
      if constexpr (K::left == Operand::kRows) load_box(left, &maps_.left, k, tile.begin + tile.m * kTileRows, bar);
      if constexpr (K::left == Operand::kColumns) {
        for (int slab = 0; slab < 2; ++slab)
          load_box(left + slab * kSlabBytes, &maps_.left, tile.m * kTileRows + 64 * slab, tile.begin + k, bar);
      }
    }
    constexpr uint16_t kBoth = 0b11;
    const auto rank = static_cast<int>(rank_in_cluster());
    const uint32_t half = layout_.right(stage) + rank * (kRightBytes / 2);
    const int n = tile.n * K::columns;
    if constexpr (K::right == Operand::kWeights) {
      const int row = n + rank * (K::outcome == Outcome::kSwiglu ? a_.n : kTileColumns / 2);
      load_box_for(kBoth, half, &maps_.right, k, row, tile.group, bar);
    } else {
      for (int slab = 0; slab < 2; ++slab) {
        const uint32_t to = half + slab * kSlabBytes;
        const int column = n + 64 * (2 * rank + slab);
        if constexpr (K::right == Operand::kColumns) {
          load_box_for(kBoth, to, &maps_.right, column, tile.begin + k, bar);
        } else {
          load_box_for(kBoth, to, &maps_.right, column, k, tile.group, bar);
        }
      }
    }
  }

  __device__ const char* row_of(int token) const {
    return static_cast<const char*>(a_.source) + static_cast<uint64_t>(static_cast<uint32_t>(token)) * a_.source_row_bytes;
  }

  /// Gathered rows: this thread copies the same 16 bytes of the same rows of a tile in all steps.
  __device__ void find_rows(const Tile& tile) {
    const int first = tile.begin + tile.m * kTileRows + thread_ / 8 * kRowsAThread;
    valid_rows_ = tile.end - first;
#pragma unroll
    for (int i = 0; i < kRowsAThread; ++i) tokens_[i] = i < valid_rows_ ? __ldg(a_.row_tokens + first + i) : 0;
  }
  __device__ void copy_rows(int step, uint32_t stage) const {
    const uint32_t to = layout_.left(stage) + (thread_ / 8) * (kRowsAThread * 128) + ((thread_ % 8) << 4);
    const int k = step * kTileDepth + (thread_ % 8) * 8;
    const int valid = k < a_.k ? valid_rows_ : 0;
#pragma unroll
    for (int i = 0; i < kRowsAThread; ++i) {
      copy_16((to ^ ((i & 7) << 4)) + i * 128, row_of(tokens_[i]) + (k < a_.k ? k * 2 : 0), i < valid);
    }
  }

  // Gathered columns: a step is 64 rows, of which a warp's instruction copies two, 256 bytes each.
  static constexpr int kChunks = 16;  // of 16 bytes in a row
  static constexpr int kRowsAWarp = 2;
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
    const int column = tile.m * kTileRows + chunk * 8;
    const bool inside = column < a_.m;
    const int first = warp_ * kRowsAWarp + lane_ / kChunks;
    const uint32_t to = layout_.left(stage) + (chunk / 8) * kSlabBytes + first * 128 + (((chunk % 8) ^ (first & 7)) << 4);
#pragma unroll
    for (int i = 0; i < kTileDepth / kRowsAtOnce; ++i) {
      const int token = __shfl_sync(0xFFFFFFFFu, my_token, i * kRowsAWarp + lane_ / kChunks);
      copy_16(to + i * kRowsAtOnce * 128, row_of(max(token, 0)) + (inside ? column * 2 : 0), inside && token >= 0);
    }
  }

  const ProductMaps& maps_;
  const ProductArguments& a_;
  const Layout<K>& layout_;
  int thread_, lane_, warp_;
  int tokens_[kRowsAThread];  // of gathered rows
  int valid_rows_ = 0;
};

}  // namespace pimoe::cuda::hopper
