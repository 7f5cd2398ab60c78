#include "ops/fused_mlp_tiles.h"

#include "ops/launch.h"
#include "ops/tile_kernels.h"
#include "ops/tile_product.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

namespace pimoe {
namespace {

constexpr int64_t kSlice = 256;  // hidden columns at a time: gate's and up's sums are then an eighth of a second-level cache

const int32_t* integers(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<int32_t>() : nullptr; }

std::vector<int32_t> ends_of(const FusedMlp& mlp) {
  const int32_t* values = mlp.ends.const_data_ptr<int32_t>();
  std::vector<int32_t> ends(values, values + mlp.ends.numel());
  check_shape(std::is_sorted(ends.begin(), ends.end()) && ends.front() >= 0 && ends.back() <= mlp.rows, "ends ", mlp.ends,
              " must rise from 0 and stay within ", mlp.rows, " rows");
  return ends;
}

TileSource source_of(const FusedMlp& mlp, const at::Tensor& rows) { return {bits_of(rows), rows.size(1), integers(mlp.row_tokens)}; }

/// The weights of a tile's rows, or null where every row has one.
const float* weights_of(const FusedMlp& mlp, const RowTile& tile, float* room) {
  if (!mlp.weights.defined()) return nullptr;
  const float* weights = mlp.weights.const_data_ptr<float>();
  const int32_t* slots = integers(mlp.slots);
  for (int64_t r = 0; r < tile.count; ++r) room[r] = weights[slots == nullptr ? tile.begin + r : slots[tile.begin + r]];
  return room;
}

/// Where the pre-activation of a tile's columns from `first` on begins: a slice of gate's and then of up's lie side by side, so that both
/// directions go through memory in its order.
int64_t kept_place(const RowTile& tile, int64_t first, int64_t hidden_width) {
  return tile.begin * 2 * hidden_width + tile.count * 2 * first;
}

}  // namespace

FusedMlpResult fused_mlp_by_tiles(const FusedMlp& mlp) {
  const int64_t width = mlp.input.size(1);
  const int64_t hidden_width = mlp.down.size(2);
  const auto options = mlp.input.options().requires_grad(false);
  const FusedMlpResult result{at::empty({mlp.rows, width}, options), at::empty({mlp.rows, 2 * hidden_width}, options)};
  const at::Tensor gate_up = packed_matrices(mlp.gate_up.transpose(1, 2));
  const at::Tensor down = packed_matrices(mlp.down.transpose(1, 2));
  const TileSource input = source_of(mlp, mlp.input);
  const std::vector<RowTile> tiles = row_tiles(ends_of(mlp));
  parallel_tasks(static_cast<int64_t>(tiles.size()), [&](int64_t begin, int64_t end) {
    const TileUnit unit;
    const TileRoom<uint16_t> rows(kTileRows * width), hidden(kTileRows * hidden_width);
    const TileRoom<float> gate_sums(kTileRows * kSlice), up_sums(kTileRows * kSlice), sums(kTileRows * width);
    float weights[kTileRows];
    for (int64_t index = begin; index < end; ++index) {
      const RowTile& tile = tiles[static_cast<size_t>(index)];
      const int64_t count = rounded_up(tile.count, kRowStep);
      input.load(tile, rows.data());
      const float* row_weights = mlp.weigh_hidden ? weights_of(mlp, tile, weights) : nullptr;
      for (int64_t first = 0; first < hidden_width; first += kSlice) {
        const int64_t columns = std::min(kSlice, hidden_width - first);
        const auto multiply = [&](int64_t column, const TileRoom<float>& out) {
          multiply_tile(count, rows.data(), width, right_matrix(gate_up, tile.group), {column, columns, 0, width}, out.data(), kSlice,
                        false);
        };
        multiply(first, gate_sums);
        multiply(hidden_width + first, up_sums);
        uint16_t* const kept = mutable_bits_of(result.gate_up_rows) + kept_place(tile, first, hidden_width);
        cpu::swiglu_tile({.rows = tile.count,
                          .columns = columns,
                          .weights = row_weights,
                          .gate = kept,
                          .up = kept + tile.count * columns,
                          .gate_up_stride = columns,
                          .hidden = hidden.data() + first,
                          .hidden_stride = hidden_width,
                          .gate_sums = gate_sums.data(),
                          .up_sums = up_sums.data(),
                          .sums_stride = kSlice});
      }
      std::fill(hidden.data() + tile.count * hidden_width, hidden.data() + count * hidden_width, uint16_t{0});
      multiply_tile(count, hidden.data(), hidden_width, right_matrix(down, tile.group), {0, width, 0, hidden_width}, sums.data(), width,
                    false);
      cpu::narrow_rows(sums.data(), width, tile.count, width, mutable_bits_of(result.rows) + tile.begin * width, width);
    }
  });
  return result;
}

FusedMlpRowGradients fused_mlp_backward_by_tiles(const FusedMlp& mlp, const at::Tensor& gate_up_rows, const at::Tensor& grad_output,
                                                 FusedMlpWanted wanted) {
  const int64_t width = mlp.input.size(1);
  const int64_t hidden_width = mlp.down.size(2);
  const auto options = mlp.input.options().requires_grad(false);
  const std::vector<int32_t> ends = ends_of(mlp);
  const PairedRows grad_gate_up(ends, 2 * hidden_width, options);
  const PairedRows hidden(ends, hidden_width, options);
  FusedMlpRowGradients result{.grad_gate_up_rows = grad_gate_up.pairs(), .hidden = hidden.pairs()};
  if (wanted.rows) result.rows = at::empty({mlp.rows, width}, options);
  const at::Tensor dots = at::zeros({mlp.rows}, options.dtype(at::kFloat));
  const at::Tensor down = packed_matrices(mlp.down);
  const at::Tensor gate_up = wanted.rows ? packed_matrices(mlp.gate_up) : at::Tensor();
  const TileSource grads = source_of(mlp, grad_output);
  const std::vector<RowTile> tiles = row_tiles(ends);
  parallel_tasks(static_cast<int64_t>(tiles.size()), [&](int64_t begin, int64_t end) {
    const TileUnit unit;
    const TileRoom<uint16_t> rows(kTileRows * width), hidden_tile(kTileRows * kSlice), grad_tile(kTileRows * 2 * hidden_width);
    const TileRoom<float> grad_hidden(kTileRows * kSlice), sums(kTileRows * width);
    float weights[kTileRows];
    for (int64_t index = begin; index < end; ++index) {
      const RowTile& tile = tiles[static_cast<size_t>(index)];
      const int64_t count = rounded_up(tile.count, kRowStep);
      const int64_t in_group = tile.begin - hidden.begin(tile.group);
      grads.load(tile, rows.data());
      const float* row_weights = weights_of(mlp, tile, weights);
      for (int64_t first = 0; first < hidden_width; first += kSlice) {
        const int64_t columns = std::min(kSlice, hidden_width - first);
        multiply_tile(count, rows.data(), width, right_matrix(down, tile.group), {first, columns, 0, width}, grad_hidden.data(), kSlice,
                      false);
        // Only read; the arguments have one pointer for both directions.
        auto* const kept = const_cast<uint16_t*>(bits_of(gate_up_rows)) + kept_place(tile, first, hidden_width);
        cpu::swiglu_tile_backward({.rows = tile.count,
                                   .columns = columns,
                                   .weights = row_weights,
                                   .gate = kept,
                                   .up = kept + tile.count * columns,
                                   .gate_up_stride = columns,
                                   .hidden = hidden_tile.data(),
                                   .hidden_stride = kSlice,
                                   .grad_hidden = grad_hidden.data(),
                                   .sums_stride = kSlice,
                                   .grad_gate = grad_tile.data() + first,
                                   .grad_up = grad_tile.data() + hidden_width + first,
                                   .grad_stride = 2 * hidden_width,
                                   .dots = wanted.weights ? dots.mutable_data_ptr<float>() + tile.begin : nullptr});
        hidden.put(tile.group, in_group, tile.count, hidden_tile.data(), kSlice, first, columns);
      }
      grad_gate_up.put(tile.group, in_group, tile.count, grad_tile.data(), 2 * hidden_width, 0, 2 * hidden_width);
      if (!wanted.rows) continue;
      std::fill(grad_tile.data() + tile.count * 2 * hidden_width, grad_tile.data() + count * 2 * hidden_width, uint16_t{0});
      multiply_tile(count, grad_tile.data(), 2 * hidden_width, right_matrix(gate_up, tile.group), {0, width, 0, 2 * hidden_width},
                    sums.data(), width, false);
      cpu::narrow_rows(sums.data(), width, tile.count, width, mutable_bits_of(result.rows) + tile.begin * width, width);
    }
  });
  if (!wanted.weights) return result;
  if (!mlp.positions.defined()) {
    result.weights = dots;
    return result;
  }
  result.weights = at::empty({mlp.positions.numel()}, dots.options());
  const int32_t* rows = integers(mlp.positions);
  float* const out = result.weights.mutable_data_ptr<float>();
  for (int64_t slot = 0; slot < mlp.positions.numel(); ++slot) out[slot] = rows[slot] < 0 ? 0.0F : dots.const_data_ptr<float>()[rows[slot]];
  return result;
}

at::Tensor fused_mlp_gate_up_gradient_by_tiles(const FusedMlp& mlp, const FusedMlpRowGradients& of_rows) {
  const PairedRows grads(ends_of(mlp), mlp.gate_up.size(1), mlp.input.options(), of_rows.grad_gate_up_rows);
  return multiply_paired_rows(source_of(mlp, mlp.input), grads, /*turned=*/true);
}

at::Tensor fused_mlp_down_gradient_by_tiles(const FusedMlp& mlp, const FusedMlpRowGradients& of_rows, const at::Tensor& grad_output) {
  const PairedRows hidden(ends_of(mlp), mlp.down.size(2), mlp.input.options(), of_rows.hidden);
  return multiply_paired_rows(source_of(mlp, grad_output), hidden, /*turned=*/false);
}

}  // namespace pimoe
