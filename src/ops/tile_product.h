#pragma once

/// bfloat16 products on CPUs with instructions for them (AVX512_BF16, AMX), out of tiles of few sizes. For this folder alone.
///
/// oneDNN's own product compiles a kernel for each number of rows, and an expert has another number in each step: compiling took a sixth of a
/// step, and the kernels a gigabyte. Here everything is made of tiles whose kernels are compiled once. Sums are float32, each in one fixed
/// order: the bits do not depend on the number of threads.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace pimoe {

/// @returns whether the products below take this tensor: bfloat16, on the CPU, and the CPU has what it takes.
bool has_tile_product(const at::Tensor& tensor);

/// Rows of a tile of a result.
constexpr int64_t kTileRows = 64;

/// c [rows, columns] = left [rows, depth] right [depth, columns], or added to c.
///
/// @param right  packed: pairs of rows side by side (cpu::pack_pairs), `columns` pairs in a row; depth is even
void multiply_tile(int64_t rows, int64_t columns, int64_t depth, const uint16_t* left, int64_t left_stride, const uint32_t* right, float* c,
                   int64_t c_stride, bool add);

/// Gives back the matrix unit's set-up: to be called by a thread that has multiplied tiles, before anything else multiplies in it.
void release_tiles();

/// @param rows      [R, A], A even
/// @param matrices  [G, A, B], dense in A or in B
/// @param ends      [G], of the row ranges
/// @returns [R, B]: the rows of group g times matrices[g]. Rows past the last end are not written.
at::Tensor multiply_rows_by_tiles(const at::Tensor& rows, const at::Tensor& matrices, const std::vector<int32_t>& ends);

/// @returns [G, B, A]: for each group the sum over its rows of grad[r]^T rows[r].
at::Tensor multiply_columns_by_tiles(const at::Tensor& grad, const at::Tensor& rows, const std::vector<int32_t>& ends);

}  // namespace pimoe
