#include "ops/tile_product.h"

#include "ops/launch.h"

#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

namespace pimoe {
namespace {

constexpr int64_t kColumns = 256;  // of a tile of the right matrix: with kDepth rows, a quarter of a second-level cache
constexpr int64_t kDepth = 256;
constexpr int64_t kRowStep = 16;    // a last tile of fewer rows is computed in the next multiple: four kernels instead of sixty-four
constexpr int64_t kDepthStep = 32;  // likewise of fewer terms, where the rows are what is summed over

int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

const uint16_t* bits_of(const at::Tensor& tensor) { return static_cast<const uint16_t*>(tensor.const_data_ptr()); }
uint16_t* mutable_bits_of(const at::Tensor& tensor) { return static_cast<uint16_t*>(tensor.mutable_data_ptr()); }

/// Multiplies small whole numbers, exact in bfloat16, in sizes that leave a rest in each direction. oneDNN may refuse (the user can forbid it
/// these instructions), and a kernel for an instruction set that this code has not met is better asked than trusted.
bool probe() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx512bf16")) return false;
  constexpr int64_t kRows = 17, kWidth = kColumns + 16, kTerms = kDepth + 2;
  constexpr uint16_t kNumbers[] = {0x0000, 0x3F80, 0x4000};  // 0, 1, 2
  const auto left_number = [](int64_t row, int64_t k) { return (row + k) % 3; };
  const auto right_number = [](int64_t k, int64_t column) { return (k / 2 + column) % 3; };
  std::vector<uint16_t> left, right;
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t k = 0; k < kTerms; ++k) left.push_back(kNumbers[left_number(row, k)]);
  }
  for (int64_t k = 0; k < kTerms; ++k) {
    for (int64_t column = 0; column < kWidth; ++column) right.push_back(kNumbers[right_number(k, column)]);
  }
  std::vector<uint32_t> pairs(static_cast<size_t>(kTerms / 2 * kWidth));
  cpu::pack_pairs(right.data(), kWidth, kTerms, kWidth, pairs.data(), kWidth);
  std::vector<float> c(static_cast<size_t>(kRows * kWidth));
  try {
    multiply_tile(kRows, kWidth, kTerms, left.data(), kTerms, pairs.data(), c.data(), kWidth, false);
    release_tiles();
  } catch (const std::exception&) {
    return false;
  }
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < kWidth; ++column) {
      int64_t sum = 0;
      for (int64_t k = 0; k < kTerms; ++k) sum += left_number(row, k) * right_number(k, column);
      if (c[static_cast<size_t>(row * kWidth + column)] != static_cast<float>(sum)) return false;
    }
  }
  return true;
#else
  return false;
#endif
}

/// A range of one group's rows, or of a result's.
struct Tile {
  int64_t group, begin, count;
};

}  // namespace

bool has_tile_product(const at::Tensor& tensor) {
  static const bool works = probe();
  return works && tensor.is_cpu() && tensor.scalar_type() == at::kBFloat16;
}

void multiply_tile(int64_t rows, int64_t columns, int64_t depth, const uint16_t* left, int64_t left_stride, const uint32_t* right, float* c,
                   int64_t c_stride, bool add) {
  const auto* a = reinterpret_cast<const at::BFloat16*>(left);
  for (int64_t column = 0; column < columns; column += kColumns) {
    for (int64_t k = 0; k < depth; k += kDepth) {
      const auto* b = reinterpret_cast<const at::BFloat16*>(right + k / 2 * columns + column);
      at::native::cpublas::brgemm(rows, std::min(kColumns, columns - column), std::min(kDepth, depth - k), left_stride, columns, c_stride,
                                  add || k > 0, a + k, b, c + column, /*is_vnni=*/true);
    }
  }
}

void release_tiles() { at::native::cpublas::brgemm_release(); }

at::Tensor multiply_rows_by_tiles(const at::Tensor& rows, const at::Tensor& matrices, const std::vector<int32_t>& ends) {
  const auto groups = static_cast<int64_t>(ends.size());
  const int64_t depth = matrices.size(1);
  const int64_t columns = matrices.size(2);
  const bool turned = matrices.stride(1) == 1;
  at::Tensor output = at::empty({rows.size(0), columns}, rows.options());
  const at::Tensor packed = at::empty({groups, depth, columns}, rows.options());
  auto* const pairs = reinterpret_cast<uint32_t*>(mutable_bits_of(packed));
  const int64_t slabs = (columns + kTileRows - 1) / kTileRows;
  parallel_tasks(groups * slabs, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t column = index % slabs * kTileRows;
      const int64_t width = std::min(kTileRows, columns - column);
      const uint16_t* in = bits_of(matrices) + index / slabs * matrices.stride(0) + column * matrices.stride(2);
      uint32_t* out = pairs + index / slabs * depth / 2 * columns + column;
      turned ? cpu::pack_pairs_turned(in, matrices.stride(2), width, depth, out, columns)
             : cpu::pack_pairs(in, matrices.stride(1), depth, width, out, columns);
    }
  });

  std::vector<Tile> tiles;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t end = ends[static_cast<size_t>(group)];
    for (int64_t begin = group == 0 ? 0 : ends[static_cast<size_t>(group - 1)]; begin < end; begin += kTileRows) {
      tiles.push_back({group, begin, std::min(kTileRows, end - begin)});
    }
  }
  parallel_tasks(static_cast<int64_t>(tiles.size()), [&](int64_t begin, int64_t end) {
    std::vector<float> sums(static_cast<size_t>(kTileRows * columns));
    std::vector<uint16_t> last(static_cast<size_t>(kTileRows * depth));
    for (int64_t index = begin; index < end; ++index) {
      const Tile& tile = tiles[static_cast<size_t>(index)];
      const uint16_t* left = bits_of(rows) + tile.begin * depth;
      const int64_t count = rounded_up(tile.count, kRowStep);
      if (count != tile.count) {  // what follows may be another tensor's memory
        std::memcpy(last.data(), left, static_cast<size_t>(tile.count * depth) * sizeof(uint16_t));
        left = last.data();
      }
      multiply_tile(count, columns, depth, left, depth, pairs + tile.group * depth / 2 * columns, sums.data(), columns, false);
      cpu::narrow_rows(sums.data(), columns, tile.count, columns, mutable_bits_of(output) + tile.begin * columns, columns);
    }
    release_tiles();
  });
  return output;
}

at::Tensor multiply_columns_by_tiles(const at::Tensor& grad, const at::Tensor& rows, const std::vector<int32_t>& ends) {
  const auto groups = static_cast<int64_t>(ends.size());
  const int64_t height = grad.size(1);
  const int64_t width = rows.size(1);
  at::Tensor output = at::empty({groups, height, width}, rows.options());

  // Each group's rows in pairs, with zeros up to a multiple of kDepthStep.
  struct Group {
    int64_t begin, count, depth, pairs;
  };
  std::vector<Group> all;
  std::vector<Tile> chunks;
  int64_t pairs_count = 0;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t begin = group == 0 ? 0 : ends[static_cast<size_t>(group - 1)];
    const int64_t count = ends[static_cast<size_t>(group)] - begin;
    all.push_back({begin, count, rounded_up(count, kDepthStep), pairs_count});
    pairs_count += all.back().depth / 2;
    for (int64_t row = 0; row < count; row += kDepth) chunks.push_back({group, row, std::min(kDepth, count - row)});
  }
  const at::Tensor packed = at::empty({pairs_count, 2 * width}, rows.options());
  auto* const pairs = reinterpret_cast<uint32_t*>(mutable_bits_of(packed));
  parallel_tasks(static_cast<int64_t>(chunks.size()), [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const Tile& chunk = chunks[static_cast<size_t>(index)];
      const Group& group = all[static_cast<size_t>(chunk.group)];
      uint32_t* out = pairs + (group.pairs + chunk.begin / 2) * width;
      cpu::pack_pairs(bits_of(rows) + (group.begin + chunk.begin) * width, width, chunk.count, width, out, width);
      const int64_t written = (chunk.count + 1) / 2 * width;
      std::memset(out + written, 0, static_cast<size_t>(rounded_up(chunk.count, kDepthStep) / 2 * width - written) * sizeof(uint32_t));
    }
  });

  // A tile of every group, then the next of every group: groups of very different sizes are then shared out evenly.
  const int64_t tiles = (height + kTileRows - 1) / kTileRows;
  parallel_tasks(tiles * groups, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(static_cast<size_t>(kTileRows * width));
    std::vector<uint16_t> turned(static_cast<size_t>(kTileRows * kDepth));
    for (int64_t index = begin; index < end; ++index) {
      const Group& group = all[static_cast<size_t>(index % groups)];
      const int64_t first = index / groups * kTileRows;
      const int64_t count = std::min(kTileRows, height - first);
      uint16_t* const out = mutable_bits_of(output) + (index % groups * height + first) * width;
      if (group.count == 0) {
        std::memset(out, 0, static_cast<size_t>(count * width) * sizeof(uint16_t));
        continue;
      }
      for (int64_t row = 0; row < group.depth; row += kDepth) {
        const int64_t depth = std::min(kDepth, group.depth - row);
        const int64_t filled = std::min(depth, group.count - row);
        cpu::turn(bits_of(grad) + (group.begin + row) * height + first, height, filled, count, turned.data(), depth);
        if (filled < depth) {
          for (int64_t line = 0; line < count; ++line) std::fill_n(turned.data() + line * depth + filled, depth - filled, uint16_t{0});
        }
        multiply_tile(count, width, depth, turned.data(), depth, pairs + (group.pairs + row / 2) * width, sums.data(), width, row > 0);
      }
      cpu::narrow_rows(sums.data(), width, count, width, out, width);
    }
    release_tiles();
  });
  return output;
}

}  // namespace pimoe
