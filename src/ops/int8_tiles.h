#pragma once

/// int8_linear on CPUs (int8_product.h). Seen by ops/*.cpp alone.

#include "ops/int8_product.h"

#include <string>
#include <vector>

namespace pimoe {

/// What the CPU lacks for these products, as "AVX512_VNNI or AMX_INT8"; "" where nothing is missing.
std::string missing_for_int8(Int8Activations activations);
/// @returns the kernel's name. REQUIRES missing_for_int8 to say nothing
std::string int8_tile_kernel(Int8Activations activations, at::ScalarType rows);

/// Writes what int8_linear returns into `output` [R, B], but for rows past the last end.
/// @param rows  [R, A] contiguous  REQUIRES missing_for_int8 to say nothing
void int8_linear_by_tiles(const at::Tensor& rows, const Int8Matrices& matrices, const std::vector<int32_t>& ends, at::Tensor& output);

}  // namespace pimoe
