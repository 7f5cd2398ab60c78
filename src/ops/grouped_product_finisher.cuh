#pragma once

#include "ops/grouped_product_plan.cuh"

namespace pimoe::cuda::hopper {

/// Warps that apply SwiGLU, or its backward, to what those who multiply hand over, while these are at the next tile. They take it in turn; an
/// instruction works on two rows of 128 columns, or on four rows of 64 columns of gate and up: 16 bytes to a lane, with whole lines of memory.
template <class K>
class Finisher {
 public:
  __device__ Finisher(const ProductArguments& a, const Layout<K>& layout)
      : a_(a),
        layout_(layout),
        walk_(a),
        lane_(threadIdx.x % 32),
        place_(kPlaces - kWarps + static_cast<int>(threadIdx.x - K::loaders) / 32) {}

  __device__ void run() {
    if constexpr (K::outcome == Outcome::kSwiglu) {
      apply_swiglu();
    } else {
      apply_backward();
    }
  }

 private:
  static constexpr int kWarps = K::finishers / 32;
  static constexpr int kPlaces = 2 * kSendingWarps;  ///< handed over of a tile: first the left half by each warp
  static constexpr int kLanes = K::columns / 2 / 8;  ///< share a row
  static constexpr int kRowsAtOnce = 32 / kLanes;

  /// What one warp hands over at a time, as a lane sees it: eight columns of every kRowsAtOnce-th row.
  struct Part {
    int sender, half;
    int rows;       ///< from the lane's first row to the group's end; 0 beyond the last column
    int64_t begin;  ///< where that row's columns lie among hidden rows
    int64_t gates;  ///< and among gates and ups
    int slot;       ///< of the row `lane % 16`; -1 where it is not weighed
    float* dot;     ///< backward: where that of row 2 (lane % 16) + lane / 16 goes; null where it is not wanted, or there is no such row
  };

  /// 16 bytes of a row of gate and of up.
  struct GateUp {
    uint4 gate, up;
  };

  /// This warp's next part. @returns false past the last
  __device__ bool find(Part& part) {
    place_ += kWarps;
    if (place_ >= kPlaces) {
      place_ -= kPlaces;
      do {
        if (!walk_.next(tile_)) return false;
      } while (tile_.idle);
    }
    part.sender = place_ % kSendingWarps;
    part.half = place_ / kSendingWarps;
    const int first = tile_.begin + tile_.m * kTileRows + part.sender * kHandedRows;
    const int columns = 2 * tile_.n + part.half;  // which of the result's
    const int row = first + lane_ / kLanes;
    const int column = columns * (K::columns / 2) + lane_ % kLanes * 8;
    part.rows = column < a_.n ? tile_.end - row : 0;
    part.begin = static_cast<int64_t>(row) * a_.n + column;
    part.gates = part.begin + static_cast<int64_t>(row) * a_.n;
    part.slot = -1;
    if (const int weighed = first + lane_ % 16; a_.weights != nullptr && weighed < tile_.end) {
      part.slot = a_.slots != nullptr ? __ldg(a_.slots + weighed) : weighed;
    }
    part.dot = nullptr;
    if constexpr (K::outcome == Outcome::kSwigluBackward) {
      const int summed = row + 2 * (lane_ % 16);
      if (a_.dots != nullptr && columns * kHandedColumns < a_.n && lane_ % 16 < kHandedRows / 2 && summed < tile_.end) {
        part.dot = a_.dots + static_cast<int64_t>(columns) * a_.rows + summed;
      }
    }
    return true;
  }

  __device__ float weight_of(const Part& part) const { return part.slot >= 0 ? __ldg(a_.weights + part.slot) : 1.0f; }

  __device__ void give_back(const Part& part) const {
    __syncwarp();
    if (lane_ == 0) barrier_arrive(layout_.taken(part.sender));
  }

  __device__ void apply_swiglu() {
    Part part;
    while (find(part)) {
      const float weights = weight_of(part);
      barrier_wait(layout_.handed(part.sender), part.half);
#pragma unroll
      for (int first = 0; first < kHandedRows; first += kRowsAtOnce) {
        const int row = first + lane_ / kLanes;
        const GateUp gate_up{load_16(layout_.handed_chunk(part.sender, row, lane_ % kLanes)),
                             load_16(layout_.handed_chunk(part.sender, row, lane_ % kLanes + kLanes))};
        store_hidden(part, first, gate_up, __shfl_sync(0xFFFFFFFFu, weights, row));
      }
      give_back(part);
    }
  }

  __device__ void apply_backward() {
    // So many instructions' gates and ups are on their way from memory while those before are worked on.
    constexpr int kTogether = 4;
    constexpr int kRows = kTogether * kRowsAtOnce;
    static_assert(kHandedRows == 2 * kRows);
    Part part;
    if (!find(part)) return;
    GateUp next[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) next[i] = load_rows(part, i * kRowsAtOnce);
    float weights = weight_of(part);
    for (bool more = true; more;) {
      Part following = part;
      more = find(following);
      if (!more) following.rows = 0;
      float next_weights = 0.0f;
      float my_dot = 0.0f;
      barrier_wait(layout_.handed(part.sender), part.half);
#pragma unroll 1
      for (int begin = 0; begin < kHandedRows; begin += kRows) {
        const bool last = begin + kRows == kHandedRows;
        Part from = part;
        if (last) from = following;
        float dots[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          const int first = begin + i * kRowsAtOnce;
          const int row = first + lane_ / kLanes;
          const uint4 gradient = load_16(layout_.handed_chunk(part.sender, row, lane_ % kLanes));
          dots[i] = store_gradients(part, first, gradient, __shfl_sync(0xFFFFFFFFu, weights, row), next[i]);
          next[i] = load_rows(from, (last ? 0 : begin + kRows) + i * kRowsAtOnce);
        }
        // Not sooner: a weight is found by its slot, which comes from memory too.
        if (begin == 0) next_weights = weight_of(following);
        if (a_.dots == nullptr) continue;
        for (int offset = kLanes / 2; offset > 0; offset /= 2) {
#pragma unroll
          for (float& dot : dots) dot += __shfl_xor_sync(0xFFFFFFFFu, dot, offset);
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i) my_dot = lane_ % kLanes == begin / kRowsAtOnce + i ? dots[i] : my_dot;
      }
      give_back(part);
      if (part.dot != nullptr) *part.dot = my_dot;
      part = following;
      weights = next_weights;
    }
  }

  /// `row` counts from the lane's first one. Read once, as what is stored here is not read soon: the L2 cache is for the products' operands.
  __device__ GateUp load_rows(const Part& part, int row) const {
    GateUp loaded{};
    const __nv_bfloat16* const from = a_.gate_up + part.gates + 2 * static_cast<int64_t>(row * a_.n);
    if (row < part.rows) {
      loaded.gate = __ldcs(reinterpret_cast<const uint4*>(from));
      loaded.up = __ldcs(reinterpret_cast<const uint4*>(from + a_.n));
    }
    return loaded;
  }

  /// Of eight gates. Step by step for all: a warp waits for each result that it needs at once.
  __device__ static void logistic(const uint32_t (&gates)[4], float (&s)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = unpack(gates[i]);
      s[2 * i] = power_of_two(-1.4426950408889634f * x.x);
      s[2 * i + 1] = power_of_two(-1.4426950408889634f * x.y);
    }
#pragma unroll
    for (float& one : s) one = reciprocal(1.0f + one);
  }

  __device__ void store_hidden(const Part& part, int row, const GateUp& gate_up, float weight) const {
    const uint32_t x4[4] = {gate_up.gate.x, gate_up.gate.y, gate_up.gate.z, gate_up.gate.w};
    const uint32_t u4[4] = {gate_up.up.x, gate_up.up.y, gate_up.up.z, gate_up.up.w};
    float s[8];
    logistic(x4, s);
    uint32_t hidden[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = unpack(x4[i]), u = unpack(u4[i]);
      hidden[i] = pack(weight * x.x * s[2 * i] * u.x, weight * x.y * s[2 * i + 1] * u.y);
    }
    if (row >= part.rows) return;
    const auto further = static_cast<int64_t>(row * a_.n);
    __nv_bfloat16* const to = a_.gate_up + part.gates + 2 * further;
    __stcs(reinterpret_cast<uint4*>(to), gate_up.gate);
    __stcs(reinterpret_cast<uint4*>(to + a_.n), gate_up.up);
    *reinterpret_cast<uint4*>(a_.hidden + part.begin + further) = uint4{hidden[0], hidden[1], hidden[2], hidden[3]};
  }

  /// With s the logistic function of the gate x, u up, d the gradient of a hidden number before it was weighed by w, h = x s u:
  /// gradient of x: w d u s (1 + x (1 - s)), of u: w d x s; of w: the sum of d h over the row.
  /// @returns this lane's part of the last
  __device__ float store_gradients(const Part& part, int row, const uint4& gradient, float weight, const GateUp& gate_up) const {
    const uint32_t d4[4] = {gradient.x, gradient.y, gradient.z, gradient.w};
    const uint32_t x4[4] = {gate_up.gate.x, gate_up.gate.y, gate_up.gate.z, gate_up.gate.w};
    const uint32_t u4[4] = {gate_up.up.x, gate_up.up.y, gate_up.up.z, gate_up.up.w};
    float s[8];
    logistic(x4, s);
    uint32_t grad_gate[4], grad_up[4], hidden[4];
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = unpack(x4[i]), u = unpack(u4[i]), d = unpack(d4[i]);
      float2 grad_x, grad_u, weighed;
      const auto one = [&](float x, float s, float u, float d, float& grad_x, float& grad_u, float& h) {
        const float silu = x * s;
        h = silu * u;
        dot += d * h;
        h *= weight;
        d *= weight;
        grad_x = d * u * (s + silu - silu * s);
        grad_u = d * silu;
      };
      one(x.x, s[2 * i], u.x, d.x, grad_x.x, grad_u.x, weighed.x);
      one(x.y, s[2 * i + 1], u.y, d.y, grad_x.y, grad_u.y, weighed.y);
      grad_gate[i] = pack(grad_x.x, grad_x.y);
      grad_up[i] = pack(grad_u.x, grad_u.y);
      hidden[i] = pack(weighed.x, weighed.y);
    }
    const auto further = static_cast<int64_t>(row * a_.n);
    __nv_bfloat16* const to = a_.grad_gate_up + part.gates + 2 * further;
    if (row < part.rows) {
      __stcs(reinterpret_cast<uint4*>(to), uint4{grad_gate[0], grad_gate[1], grad_gate[2], grad_gate[3]});
      __stcs(reinterpret_cast<uint4*>(to + a_.n), uint4{grad_up[0], grad_up[1], grad_up[2], grad_up[3]});
      __stcs(reinterpret_cast<uint4*>(a_.hidden + part.begin + further), uint4{hidden[0], hidden[1], hidden[2], hidden[3]});
    }
    return dot;
  }

  const ProductArguments& a_;
  const Layout<K>& layout_;
  TileWalk<K> walk_;
  Tile tile_;
  int lane_;
  int place_;  ///< in the tile's order of parts
};

}  // namespace pimoe::cuda::hopper
