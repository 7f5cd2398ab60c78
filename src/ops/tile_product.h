#pragma once

/// bfloat16 products on CPUs with instructions for them (AVX512_BF16, AMX), out of tiles of few sizes. For this folder alone.
///
/// oneDNN's own product compiles a kernel for each number of rows, and an expert has another number in each step: compiling took a sixth of a
/// step, and the kernels a gigabyte. Here everything is made of tiles whose kernels are compiled once. Sums are float32, each in one fixed
/// order: the bits do not depend on the number of threads.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace pimoe {

/// @returns whether the CPU has what the products below take.
bool has_tile_product();
/// Whether they take this tensor: bfloat16, on the CPU, and has_tile_product().
bool has_tile_product(const at::Tensor& tensor);

inline const uint16_t* bits_of(const at::Tensor& tensor) { return static_cast<const uint16_t*>(tensor.const_data_ptr()); }
inline uint16_t* mutable_bits_of(const at::Tensor& tensor) { return static_cast<uint16_t*>(tensor.mutable_data_ptr()); }

/// Rows of a tile of a result.
constexpr int64_t kTileRows = 64;

/// Room for numbers of a tile: not cleared, and on a cache line, since a wide register that lies on two costs twice.
template <class T>
class TileRoom {
 public:
  explicit TileRoom(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(kLine, (static_cast<size_t>(count) * sizeof(T) / kLine + 1) * kLine))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  static TileRoom zeros(int64_t count) {
    TileRoom room(count);
    std::fill_n(room.data(), count, T{});
    return room;
  }
  T* data() const { return data_.get(); }

 private:
  static constexpr size_t kLine = 64;
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T[], Free> data_;
};

/// c [rows, columns] = left [rows, depth] right [depth, columns], or added to c.
///
/// @param right  packed: pairs of rows side by side (cpu::pack_pairs), `right_stride` pairs from row to row; depth is even
void multiply_block(int64_t rows, int64_t columns, int64_t depth, const uint16_t* left, int64_t left_stride, const uint32_t* right,
                    int64_t right_stride, float* c, int64_t c_stride, bool add);

/// A packed right side of many columns: rows in pairs, and columns in panels of kWidth, one after the other, the last maybe narrower. Rows of a
/// wider matrix would lie a power of two apart, and push each other out of the caches: a tenth of a product's speed.
struct RightMatrix {
  static constexpr int64_t kWidth = 256;

  uint32_t* data;
  int64_t pairs, columns;

  /// From row to row in the panel that has this column.
  int64_t stride(int64_t column) const { return std::min(kWidth, columns - column / kWidth * kWidth); }
  uint32_t* at(int64_t pair, int64_t column) const {
    return data + column / kWidth * kWidth * pairs + pair * stride(column) + column % kWidth;
  }
  /// Columns from this one on, at most `most`, that lie in its panel.
  int64_t width_from(int64_t column, int64_t most) const { return std::min(most, stride(column) - column % kWidth); }
};

/// Columns, and terms (rows of the right matrix, even), that a product takes.
struct RightPart {
  int64_t first_column, columns, first_term, terms;
};

/// c [rows, part.columns] = left [rows, part.terms] times that part, or added to c.
void multiply_tile(int64_t rows, const uint16_t* left, int64_t left_stride, const RightMatrix& right, const RightPart& part, float* c,
                   int64_t c_stride, bool add);

/// A thread that multiplies tiles has one while it does: gives the matrix unit's set-up back, before anything else multiplies in the thread.
class TileUnit {
 public:
  TileUnit() = default;
  ~TileUnit();
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;
};

/// A range of one group's rows.
struct RowTile {
  int64_t group, begin, count;
};
/// @returns every group's rows in ranges of kTileRows
std::vector<RowTile> row_tiles(const std::vector<int32_t>& ends);

/// A last tile of fewer rows is computed in the next multiple of this: four kernels instead of sixty-four.
constexpr int64_t kRowStep = 16;
constexpr int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Rows of a matrix, dense: row r is row tokens[r] of `data` where there are tokens.
struct TileSource {
  const uint16_t* data;
  int64_t width;
  const int32_t* tokens = nullptr;

  const uint16_t* row(int64_t r) const { return data + (tokens == nullptr ? r : tokens[r]) * width; }
  /// Columns [first, first + columns) of rows [begin, begin + count) one below the other.
  void gather(int64_t begin, int64_t count, int64_t first, int64_t columns, uint16_t* out) const;
  /// The rows of a tile one below the other, and zeros up to a multiple of kRowStep.
  void load(const RowTile& tile, uint16_t* out) const;
};

/// @param matrices  [G, A, B], dense in A or in B; A even
/// @returns [G, A, B], of which right_matrix says where they lie
at::Tensor packed_matrices(const at::Tensor& matrices);
/// @param packed  of packed_matrices
RightMatrix right_matrix(const at::Tensor& packed, int64_t group);

/// For each group its rows two side by side, as multiply_tile wants what is summed over rows, with zeros up to a multiple of kStep.
class PairedRows {
 public:
  static constexpr int64_t kStep = 32;

  /// @param pairs  what another one of the same ends and width has; none: room for them
  PairedRows(const std::vector<int32_t>& ends, int64_t width, const at::TensorOptions& options, at::Tensor pairs = {});

  const at::Tensor& pairs() const { return pairs_; }
  int64_t width() const { return width_; }
  int64_t groups() const { return static_cast<int64_t>(counts_.size()); }
  int64_t begin(int64_t group) const { return begins_[static_cast<size_t>(group)]; }  ///< among all rows
  int64_t count(int64_t group) const { return counts_[static_cast<size_t>(group)]; }
  /// The rows of a group.
  RightMatrix matrix(int64_t group) const {
    const auto index = static_cast<size_t>(group);
    return {data_ + firsts_[index] * width_, rounded_up(counts_[index], kStep) / 2, width_};
  }
  /// Puts rows [row, row + count) of the group there; what follows a group's last row up to kStep is zeroed.
  /// @param row  a multiple of kStep; so is count, or the rows are the group's last
  void put(int64_t group, int64_t row, int64_t count, const uint16_t* in, int64_t in_stride, int64_t first_column, int64_t columns) const;

 private:
  int64_t width_;
  std::vector<int64_t> begins_, counts_, firsts_;
  at::Tensor pairs_;
  uint32_t* data_;
};

/// @param left    [R, A]
/// @param turned  whether the result is [G, B, A]; bfloat16 alone
/// @returns [G, A, B] in `dtype`, bfloat16 or float32: for each group the sum over its rows of left[r]^T right[r]
at::Tensor multiply_paired_rows(const TileSource& left, const PairedRows& right, bool turned, at::ScalarType dtype = at::kBFloat16);

/// @param rows      [R, A], A even
/// @param matrices  [G, A, B], dense in A or in B
/// @param ends      [G], of the row ranges
/// @returns [R, B] in `dtype`, bfloat16 or float32: the rows of group g times matrices[g]. Rows past the last end are not written.
at::Tensor multiply_rows_by_tiles(const at::Tensor& rows, const at::Tensor& matrices, const std::vector<int32_t>& ends,
                                  at::ScalarType dtype = at::kBFloat16);

/// @returns [G, B, A] in `dtype`, bfloat16 or float32: for each group the sum over its rows of grad[r]^T rows[r].
at::Tensor multiply_columns_by_tiles(const at::Tensor& grad, const at::Tensor& rows, const std::vector<int32_t>& ends,
                                     at::ScalarType dtype = at::kBFloat16);

}  // namespace pimoe
