#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// y = x / sqrt(mean(x^2) + epsilon) * weight, over the last dimension; differentiable, one autograd node, so that recomputing a region
/// that begins with it gives the same bits.
///
/// @param input   [..., D] contiguous; float64, float32, bfloat16 or float16; may be empty
/// @param weight  [D], at least float32 (float64 when the input is)
/// @returns like input. Arithmetic in float32, in float64 for float64.  @throws ShapeError
/// @cost saves input, weight and one number a row; one pass forward, one backward.
/// @source arXiv 1910.07467, eq. 4.
at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double epsilon);

/// A residual stream after an addition, and its norm.
struct ResidualNorm {
  at::Tensor sum;
  at::Tensor normed;
};
/// sum = input + update, normed = rms_norm(sum), to the same bits as one after the other, forward and backward.
/// @param update  as input; undefined: sum is input  @throws ShapeError
/// @cost as rms_norm; keeps the sum, which is a result, in place of the input. One pass more is read and one written
ResidualNorm residual_rms_norm(const at::Tensor& input, const at::Tensor& update, const at::Tensor& weight, double epsilon);

}  // namespace pimoe
