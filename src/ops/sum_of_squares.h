#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace pimoe {

/// The sum of the squares of all numbers of all tensors, as a gradient's norm needs it. The same bits in each run on the same device.
/// @param tensors  contiguous, float32 or float64, on one device, at multiples of 16 bytes; may be empty themselves, but one must be there
/// @returns [1] float64 on that device; not finite where a number is not  @throws ShapeError
/// @cost reads each number once; float32 squares are added in float32 by 64 at most, then in float64. No host synchronisation.
at::Tensor sum_of_squares(const std::vector<at::Tensor>& tensors);

}  // namespace pimoe
