#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// Products of consecutive groups of rows with a matrix of their own.
///
/// Gated networks in bfloat16 have kernels of our own (fused_mlp.h), and so has every product in bfloat16 on CPUs with instructions for it
/// (tile_product.h). Otherwise at::_grouped_mm for bfloat16 on a GPU, without a host synchronisation; a loop over groups elsewhere (other dtypes, 1024 groups
/// or more, strides that are not multiples of 16 bytes), which on a GPU reads `ends` to the host. Groups may be empty, all of them too.
///
/// `ends` [G] int32 on the rows' device: group g is rows [ends[g-1], ends[g]). Rows past the last end are unused: what they
/// hold is never looked at, and their outputs and input gradients are zero (what follows would turn garbage into NaN).

/// rows[r] W_g^T; differentiable in rows and weights. An empty group's weights have a zero gradient.
/// @param rows [R, A], weights [G, B, A]  @returns [R, B]  @throws ShapeError
/// @cost saves rows; three grouped products forward and backward
at::Tensor grouped_linear_layer(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& ends);

/// rows W^T with one matrix for all rows, as at::linear, which it is but for bfloat16 on CPUs with instructions for it: there libtorch's product
/// takes twice as long. Differentiable in both.
/// @param rows [..., A] contiguous, weight [B, A]  @returns [..., B]
at::Tensor linear_layer(const at::Tensor& rows, const at::Tensor& weight);

/// A gated feed-forward network for each group: swiglu(rows gate_up_g^T) down_g^T; differentiable in rows, gate_up and down.
/// @param rows [R, D], gate_up [G, 2F, D] (gate rows first), down [G, D, F], all of one dtype; R may be 0
/// @param row_weights  [R, 1] in the arithmetic type of rows, or undefined: each row's result is multiplied by it, and its gradient comes
///                     from the hidden activations, so that nobody has to keep the results for it
/// @returns [R, D]  @throws ShapeError
/// @cost saves rows and the pre-activation [R, 2F]; six grouped products forward and backward.
at::Tensor grouped_swiglu_mlp(const at::Tensor& rows, const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& ends,
                              const at::Tensor& row_weights = {});

}  // namespace pimoe
