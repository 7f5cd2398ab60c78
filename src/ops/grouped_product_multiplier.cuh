#pragma once

#include "ops/grouped_product_plan.cuh"

namespace pimoe::cuda::hopper {

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
    bool more = walk.next(tile);
    // Right halves of tiles to be finished wait here until the left ones have been taken.
    uint32_t held[32];
    bool holds = false;
    while (more) {
      if (tile.idle) {
        for (int step = steps_of(reduction_length<K>(a_, tile)); step > 0; --step, turn.next()) {
          barrier_wait(layout_.full(turn.stage), turn.phase);
          release(turn.stage);
        }
        more = walk.next(tile);
        continue;
      }
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
        if constexpr (K::finishes) {
          if (holds && step == steps / 2) {
            hand_over(held);
            holds = false;
          }
        }
        used = turn.stage;
        turn.next();
      }
      // What the next tile is comes from memory: asked for before the last products are waited for.
      more = walk.next(tile);
      products_wait<0>();
      if (steps > 0) release(used);
#pragma unroll
      for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
      if constexpr (K::finishes) {
        pack_half(sums, 0, held);
        hand_over(held);
        pack_half(sums, 1, held);
        holds = true;
      } else {
        send(sums);
      }
    }
    if (holds) hand_over(held);
    if (lane_ == 0) stores_wait();
  }

 private:
  /// Either block's loader writes to both blocks' stages.
  __device__ void release(uint32_t stage) const {
    if (lane_ < kClusterBlocks) barrier_arrive_at(layout_.empty(stage), static_cast<uint32_t>(lane_));
  }

  __device__ void enter(const Tile& tile) {
    first_ = (K::ragged_rows ? tile.begin : 0) + tile.m * kTileRows + warp_ * 16;
    last_ = K::ragged_rows ? tile.end : a_.m;
    column_ = tile.n * K::columns;
    group_ = K::ragged_rows ? 0 : tile.group;
  }

  /// What follows a group's last row belongs to the next group, or was never written.
  __device__ void clear_from(int tail, uint32_t stage) const {
    const auto clear = [&](uint32_t slab) {
      for (int i = tail * 8 + thread_; i < kSlabBytes / 16; i += 128) clear_16(slab + i * 16);
    };
    if constexpr (!K::gathers) clear(layout_.left(stage) + half_ * kSlabBytes);
    for (int slab = 0; slab < 4; ++slab) clear(layout_.right(stage) + slab * kSlabBytes);
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

  __device__ void send(const float (&sums)[128]) const {
    if constexpr (K::outcome == Outcome::kPlain) send_plain(sums);
    if constexpr (K::outcome == Outcome::kSum) send_sums(sums);
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

  /// A patch is 16 rows of 32 float32 numbers, a thread's two neighbours of row r in the r-th 128 bytes.
  __device__ void send_sums(const float (&sums)[128]) const {
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const uint32_t to = patch(c % 2).begin;
      patches_are_free<1>();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = lane_ / 4 + 8 * h;
          const int chunk = (2 * j + (lane_ % 4) / 2) ^ (row & 7);
          const int at = 16 * c + 4 * j + 2 * h;
          store_8(to + row * 128 + (chunk << 4) + 8 * (lane_ % 2), sums[at], sums[at + 1]);
        }
      }
      patches_are_written();
      if (lane_ == 0) {
        if (a_.adds) {
          add_box(&maps_.output, to, column_ + 32 * c, first_, group_);
        } else {
          store_box(&maps_.output, to, column_ + 32 * c, first_, group_);
        }
      }
      patches_are_sent();
    }
  }

  /// Half of the sums in pairs, in bfloat16 as a product of its own would have stored them: the left or the right columns, of gate and up where a
  /// tile has both.
  __device__ static void pack_half(const float (&sums)[128], int half, uint32_t (&packed)[32]) {
    constexpr bool kBoth = K::outcome == Outcome::kSwiglu;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int at = kBoth ? 32 * half + 64 * (i / 16) + 2 * (i % 16) : 64 * half + 2 * i;
      packed[i] = pack(sums[at], sums[at + 1]);
    }
  }
  /// To the warps that finish them.
  __device__ void hand_over(const uint32_t (&half)[32]) {
    barrier_wait(layout_.taken(warp_), taken_phase_);
    taken_phase_ ^= 1;
#pragma unroll
    for (int j = 0; j < kHandedColumns / 8; j += 2) {
      const uint32_t r[4] = {half[2 * j], half[2 * j + 1], half[2 * j + 2], half[2 * j + 3]};
      store_matrices(layout_.handed_chunk(warp_, lane_ % 16, j + lane_ / 16), r);
    }
    __syncwarp();
    if (lane_ == 0) barrier_arrive(layout_.handed(warp_));
  }

  const ProductMaps& maps_;
  const ProductArguments& a_;
  const Layout<K>& layout_;
  int half_, thread_, lane_, warp_;
  // Of this warp's part of the tile.
  int first_, last_, column_, group_;
  uint32_t taken_phase_ = 1;  // at first there is nothing to be taken
};

}  // namespace pimoe::cuda::hopper
