#pragma once

/// The kernels behind int8 products on the CPU (int8_product.h), by raw pointer. A stride is from row to row, in elements. Called where
/// missing_for_int8() (int8_tiles.h) names nothing, and so with AVX512_VNNI; those of `wide` products ask for AVX-512 alone.
///
/// No libtorch here, as in kernels.h.

#include "ops/kernels.h"
#include "ops/tile_kernels.h"

#include <cstdint>

namespace pimoe::cpu {

/// Columns of a packed panel: the channels of a result that are computed together.
constexpr int64_t kPanel = 64;
/// Rows that a product of dots takes at a time.
constexpr int64_t kFewRows = 4;

/// What is added to an int8 number before it is a factor: the instructions multiply unsigned with signed numbers.
constexpr int32_t kBias = 128;

/// out [columns, padded] = round(in / scale) + kBias in [1, 255]; behind a row's `columns` kBias up to `padded`.
/// @param inverse  1 / scale of the row
void biased_row(Dtype dtype, const void* in, int64_t columns, float inverse, uint8_t* out, int64_t padded);
/// @returns the largest size of a number; infinity where one is infinite or NaN
float largest_size(Dtype dtype, const void* in, int64_t columns);

/// out [ceil(terms / 4), kPanel] of four terms side by side = in [columns, terms] turned, zeros beside it; sums [kPanel] of each column's numbers.
void pack_panel(const int8_t* in, int64_t in_stride, int64_t columns, int64_t terms, uint32_t* out, int32_t* sums);
/// out [ceil(terms / 2), kPanel] of two terms side by side in bfloat16, likewise; and [terms, kPanel] in float32.
void widen_panel(const int8_t* in, int64_t in_stride, int64_t columns, int64_t terms, uint32_t* out);
void widen_panel(const int8_t* in, int64_t in_stride, int64_t columns, int64_t terms, float* out);

/// sums [rows, kPanel]: of each of at most kFewRows rows with each of `columns` channels.
/// @param left  biased (uint8) [rows, left_stride], read up to a multiple of 64 terms; the sums are without the bias
void few_dots(const uint8_t* left, int64_t left_stride, int64_t rows, const int8_t* right, int64_t right_stride, int64_t columns,
              int64_t terms, int32_t* sums);
void few_dots(const float* left, int64_t left_stride, int64_t rows, const int8_t* right, int64_t right_stride, int64_t columns,
              int64_t terms, float* sums);

/// out [rows, columns] of `dtype` at out_stride = (sums [rows, kPanel] - kBias times bias_sums [columns]) times the scales of row and column.
/// @param bias_sums  null: none  @param row_scales  [rows] at row_scale_stride 1 or 0
void scale_sums(const int32_t* sums, int64_t rows, int64_t columns, const int32_t* bias_sums, const float* row_scales,
                int64_t row_scale_stride, const float* scales, Dtype dtype, void* out, int64_t out_stride);
void scale_sums(const float* sums, int64_t rows, int64_t columns, const float* scales, Dtype dtype, void* out, int64_t out_stride);

}  // namespace pimoe::cpu
