#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// h = silu(gate) * up, where a row of `gate_up` is gate then up. Not differentiable: a building block of grouped_swiglu_mlp.
/// @param gate_up  [R, 2F] contiguous; float64, float32, bfloat16 or float16; R may be 0
/// @returns [R, F]; arithmetic in float32, in float64 for float64.  @throws ShapeError
/// @source arXiv 2002.05202, eq. 5.
at::Tensor swiglu(const at::Tensor& gate_up);

struct SwigluBackward {
  at::Tensor grad_gate_up;  ///< [R, 2F], gradient of gate_up
  at::Tensor hidden;        ///< [R, F], swiglu(gate_up) once more
};

/// swiglu's gradient and its result once more in one pass over `gate_up`, for a caller that did not keep the result.
/// @param grad_hidden  [R, F], gradient of the result  @throws ShapeError
SwigluBackward swiglu_backward_and_hidden(const at::Tensor& grad_hidden, const at::Tensor& gate_up);

}  // namespace pimoe
