#pragma once

/// Attention's heads as kernels take them. Seen by ops/*.cpp alone.

#include "ops/kernels.h"

#include <ATen/core/Tensor.h>

namespace pimoe {

/// @param heads  [B, S, n, d] of any strides, as gradients have them
/// @returns it, or a copy, with the heads of a position side by side
at::Tensor with_packed_heads(const at::Tensor& heads);

/// @param heads  with packed heads; must outlive what is returned
HeadRows head_rows(const at::Tensor& heads);

}  // namespace pimoe
