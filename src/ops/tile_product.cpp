#include "ops/tile_product.h"

#include "ops/kept_layouts.h"
#include "ops/launch.h"
#include "ops/tile_kernels.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

namespace pimoe {
namespace {

constexpr int64_t kMostColumns = 4 * RightMatrix::kWidth;  // of a tile of a weight's gradient
constexpr int64_t kDepth = 256;  // terms at a time: with a panel of the right matrix, a quarter of a second-level cache
constexpr int64_t kTurnedStride =
    kDepth + 32;  // of a turned tile, whose rows a power of two apart would share few places of the first-level cache

/// Multiplies small whole numbers, exact in bfloat16, in sizes that leave a rest in each direction. oneDNN may refuse (the user can forbid it
/// these instructions), and a kernel for an instruction set that this code has not met is better asked than trusted.
bool probe() {
#if PIMOE_HAS_TILE_MATH
  if (!__builtin_cpu_supports("avx512bf16")) return false;
  constexpr int64_t kRows = 17, kWidth = RightMatrix::kWidth + 16, kTerms = kDepth + 2;
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
    const TileUnit unit;
    multiply_block(kRows, kWidth, kTerms, left.data(), kTerms, pairs.data(), kWidth, c.data(), kWidth, false);
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

/// A tile's sums to `place` of a dense result in float32, or rounded to bfloat16.
void put_rows(const float* sums, int64_t rows, int64_t columns, const at::Tensor& output, int64_t place) {
  const int64_t stride = output.size(-1);
  if (output.scalar_type() == at::kBFloat16) return cpu::narrow_rows(sums, columns, rows, columns, mutable_bits_of(output) + place, stride);
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(sums + row * columns, columns, output.mutable_data_ptr<float>() + place + row * stride);
  }
}

}  // namespace

bool has_tile_product() {
  static const bool works = probe();
  return works;
}

bool has_tile_product(const at::Tensor& tensor) { return tensor.is_cpu() && tensor.scalar_type() == at::kBFloat16 && has_tile_product(); }

void multiply_block(int64_t rows, int64_t columns, int64_t depth, const uint16_t* left, int64_t left_stride, const uint32_t* right,
                    int64_t right_stride, float* c, int64_t c_stride, bool add) {
  const auto* a = reinterpret_cast<const at::BFloat16*>(left);
  for (int64_t column = 0; column < columns; column += RightMatrix::kWidth) {
    for (int64_t k = 0; k < depth; k += kDepth) {
      const auto* b = reinterpret_cast<const at::BFloat16*>(right + k / 2 * right_stride + column);
      at::native::cpublas::brgemm(rows, std::min(RightMatrix::kWidth, columns - column), std::min(kDepth, depth - k), left_stride,
                                  right_stride, c_stride, add || k > 0, a + k, b, c + column, /*is_vnni=*/true);
    }
  }
}

void multiply_tile(int64_t rows, const uint16_t* left, int64_t left_stride, const RightMatrix& right, const RightPart& part, float* c,
                   int64_t c_stride, bool add) {
  for (int64_t done = 0; done < part.columns;) {
    const int64_t column = part.first_column + done;
    const int64_t width = right.width_from(column, part.columns - done);
    multiply_block(rows, width, part.terms, left, left_stride, right.at(part.first_term / 2, column), right.stride(column), c + done,
                   c_stride, add);
    done += width;
  }
}

TileUnit::~TileUnit() { at::native::cpublas::brgemm_release(); }

void TileSource::gather(int64_t begin, int64_t count, int64_t first, int64_t columns, uint16_t* out) const {
  for (int64_t r = 0; r < count; ++r)
    std::memcpy(out + r * columns, row(begin + r) + first, static_cast<size_t>(columns) * sizeof(uint16_t));
}

void TileSource::load(const RowTile& tile, uint16_t* out) const {
  gather(tile.begin, tile.count, 0, width, out);
  std::fill(out + tile.count * width, out + rounded_up(tile.count, kRowStep) * width, uint16_t{0});
}

std::vector<RowTile> row_tiles(const std::vector<int32_t>& ends) {
  std::vector<RowTile> tiles;
  int64_t begin = 0;
  for (size_t group = 0; group < ends.size(); ++group) {
    for (; begin < ends[group]; begin += tiles.back().count) {
      tiles.push_back({static_cast<int64_t>(group), begin, std::min(kTileRows, ends[group] - begin)});
    }
  }
  return tiles;
}

at::Tensor packed_matrices(const at::Tensor& matrices) {
  at::Tensor* const kept = KeptLayouts::find(matrices);
  if (kept != nullptr && kept->defined()) return *kept;
  const int64_t groups = matrices.size(0);
  const int64_t depth = matrices.size(1);
  const int64_t columns = matrices.size(2);
  const bool turned = matrices.stride(1) == 1;
  const at::Tensor packed = at::empty({groups, depth, columns}, matrices.options().requires_grad(false));
  const int64_t slabs = (columns + kTileRows - 1) / kTileRows;
  parallel_tasks(groups * slabs, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t column = index % slabs * kTileRows;
      const int64_t width = std::min(kTileRows, columns - column);
      const uint16_t* in = bits_of(matrices) + index / slabs * matrices.stride(0) + column * matrices.stride(2);
      const RightMatrix out = right_matrix(packed, index / slabs);
      turned ? cpu::pack_pairs_turned(in, matrices.stride(2), width, depth, out.at(0, column), out.stride(column))
             : cpu::pack_pairs(in, matrices.stride(1), depth, width, out.at(0, column), out.stride(column));
    }
  });
  if (kept != nullptr) *kept = packed;
  return packed;
}

RightMatrix right_matrix(const at::Tensor& packed, int64_t group) {
  const int64_t pairs = packed.size(1) / 2;
  return {reinterpret_cast<uint32_t*>(mutable_bits_of(packed)) + group * pairs * packed.size(2), pairs, packed.size(2)};
}

PairedRows::PairedRows(const std::vector<int32_t>& ends, int64_t width, const at::TensorOptions& options, at::Tensor pairs)
    : width_(width) {
  int64_t begin = 0, first = 0;
  for (const int32_t end : ends) {
    begins_.push_back(begin);
    counts_.push_back(end - begin);
    firsts_.push_back(first);
    first += rounded_up(counts_.back(), kStep) / 2;
    begin = end;
  }
  pairs_ = pairs.defined() ? std::move(pairs) : at::empty({first, 2 * width}, options.requires_grad(false));
  data_ = reinterpret_cast<uint32_t*>(mutable_bits_of(pairs_));
}

void PairedRows::put(int64_t group, int64_t first, int64_t rows, const uint16_t* in, int64_t in_stride, int64_t first_column,
                     int64_t columns) const {
  const RightMatrix out = matrix(group);
  for (int64_t done = 0; done < columns;) {
    const int64_t column = first_column + done;
    const int64_t width = out.width_from(column, columns - done);
    const int64_t stride = out.stride(column);
    uint32_t* const pairs = out.at(first / 2, column);
    cpu::pack_pairs(in + done, in_stride, rows, width, pairs, stride);
    for (int64_t pair = (rows + 1) / 2; pair < rounded_up(rows, kStep) / 2; ++pair) std::fill_n(pairs + pair * stride, width, 0U);
    done += width;
  }
}

at::Tensor multiply_paired_rows(const TileSource& left, const PairedRows& right, bool turned, at::ScalarType dtype) {
  const int64_t groups = right.groups();
  const int64_t height = left.width;
  const int64_t width = right.width();
  const at::TensorOptions options = right.pairs().options().dtype(dtype);
  const at::Tensor output = turned ? at::empty({groups, width, height}, options) : at::empty({groups, height, width}, options);
  // A tile of every group, then the next of every group: groups of very different sizes are then shared out evenly. Tall tiles read the right
  // side less often; where there are too few for the threads they are halved, and wide results are cut across more often.
  const int64_t enough = 8 * at::get_num_threads();
  const auto parts = [](int64_t size, int64_t part) { return (size + part - 1) / part; };
  int64_t tall = 2 * kTileRows, most = kMostColumns;
  const auto tasks = [&] { return parts(height, tall) * parts(width, most) * groups; };
  if (tasks() < enough) tall = kTileRows;
  while (tasks() < enough && most > RightMatrix::kWidth) most /= 2;
  const int64_t tiles = parts(height, tall), cuts = parts(width, most);
  parallel_tasks(tiles * cuts * groups, [&](int64_t begin, int64_t end) {
    const TileUnit unit;
    const int64_t widest = std::min(width, most);
    const TileRoom<float> sums(tall * widest);
    const TileRoom<uint16_t> rows(tall * std::max(kDepth, widest)), turned_rows(tall * kTurnedStride);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t group = index % groups;
      const int64_t first = index / groups / cuts * tall;
      const int64_t count = std::min(tall, height - first);
      const int64_t column = index / groups % cuts * most;
      const int64_t columns = std::min(most, width - column);
      const int64_t terms = right.count(group);
      for (int64_t row = 0; row < terms; row += kDepth) {
        const int64_t filled = std::min(kDepth, terms - row);
        const int64_t depth = rounded_up(filled, PairedRows::kStep);
        const uint16_t* in = left.row(right.begin(group) + row) + first;
        if (left.tokens != nullptr) {
          left.gather(right.begin(group) + row, filled, first, count, rows.data());
          in = rows.data();
        }
        cpu::turn(in, left.tokens == nullptr ? height : count, filled, count, turned_rows.data(), kTurnedStride);
        for (int64_t line = 0; line < count && filled < depth; ++line) {
          std::fill_n(turned_rows.data() + line * kTurnedStride + filled, depth - filled, uint16_t{0});
        }
        multiply_tile(count, turned_rows.data(), kTurnedStride, right.matrix(group), {column, columns, row, depth}, sums.data(), columns,
                      row > 0);
      }
      if (terms == 0) std::fill_n(sums.data(), count * columns, 0.0F);
      const int64_t place = group * height * width;
      if (turned) {
        cpu::narrow_rows(sums.data(), columns, count, columns, rows.data(), columns);
        cpu::turn(rows.data(), columns, count, columns, mutable_bits_of(output) + place + column * height + first, height);
      } else {
        put_rows(sums.data(), count, columns, output, place + first * width + column);
      }
    }
  });
  return output;
}

at::Tensor multiply_rows_by_tiles(const at::Tensor& rows, const at::Tensor& matrices, const std::vector<int32_t>& ends,
                                  at::ScalarType dtype) {
  const int64_t depth = matrices.size(1);
  const int64_t columns = matrices.size(2);
  at::Tensor output = at::empty({rows.size(0), columns}, rows.options().dtype(dtype));
  const at::Tensor packed = packed_matrices(matrices);
  const std::vector<RowTile> tiles = row_tiles(ends);
  // Too few tiles of rows for the threads are cut between the packed panels of columns.
  const bool is_cut = static_cast<int64_t>(tiles.size()) < 4 * at::get_num_threads();
  const int64_t width = is_cut ? std::min(RightMatrix::kWidth, columns) : columns;
  const int64_t parts = (columns + width - 1) / width;
  parallel_tasks(static_cast<int64_t>(tiles.size()) * parts, [&](int64_t begin, int64_t end) {
    const TileUnit unit;
    const TileRoom<float> sums(kTileRows * width);
    const TileRoom<uint16_t> last(kTileRows * depth);
    for (int64_t index = begin; index < end; ++index) {
      const RowTile& tile = tiles[static_cast<size_t>(index / parts)];
      const int64_t first = index % parts * width;
      const int64_t part = std::min(width, columns - first);
      const uint16_t* left = bits_of(rows) + tile.begin * depth;
      const int64_t count = rounded_up(tile.count, kRowStep);
      if (count != tile.count) {  // what follows may be another tensor's memory
        std::memcpy(last.data(), left, static_cast<size_t>(tile.count * depth) * sizeof(uint16_t));
        left = last.data();
      }
      multiply_tile(count, left, depth, right_matrix(packed, tile.group), {first, part, 0, depth}, sums.data(), part, false);
      put_rows(sums.data(), tile.count, part, output, tile.begin * columns + first);
    }
  });
  return output;
}

at::Tensor multiply_columns_by_tiles(const at::Tensor& grad, const at::Tensor& rows, const std::vector<int32_t>& ends,
                                     at::ScalarType dtype) {
  // The wider operand is packed in pairs and the narrower one turned, which is dearer.
  const bool turned = grad.size(1) > rows.size(1) && dtype == at::kBFloat16;
  const at::Tensor& wide = turned ? grad : rows;
  const at::Tensor& narrow = turned ? rows : grad;
  const PairedRows pairs(ends, wide.size(1), wide.options());
  const std::vector<RowTile> tiles = row_tiles(ends);
  parallel_tasks(static_cast<int64_t>(tiles.size()), [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const RowTile& tile = tiles[static_cast<size_t>(index)];
      pairs.put(tile.group, tile.begin - pairs.begin(tile.group), tile.count, bits_of(wide) + tile.begin * wide.size(1), wide.size(1), 0,
                wide.size(1));
    }
  });
  return multiply_paired_rows({bits_of(narrow), narrow.size(1)}, pairs, turned, dtype);
}

}  // namespace pimoe
