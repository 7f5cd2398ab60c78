#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// The K largest scores of each row, largest first; of equal scores the lower index first, everywhere, so that layouts agree
/// (at::topk leaves ties open). NaN counts as smaller than every number.
/// @param scores  [T, E] float32 or float64 contiguous
/// @returns [T, K] int32  @throws ShapeError  @cost one pass over the scores, on a GPU one for each choice; no host synchronisation
at::Tensor top_k(const at::Tensor& scores, int64_t k);

}  // namespace pimoe
