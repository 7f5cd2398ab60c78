#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// tokens weight^T in the weight's precision, for tokens of a smaller type: what a router's logits are. Differentiable in both.
///
/// bfloat16 tokens are exact factors of products in bfloat16, and three bfloat16 numbers add up to the float32 weight: the product is float32's
/// by the units for bfloat16, and no float32 copy of the tokens is made or kept. The tokens' gradient, which is rounded to bfloat16, is made of
/// two numbers for each factor.
/// A token with an infinity, or a weight that bfloat16 rounds to one, gives NaN: infinity times the parts that are zero.
/// @param tokens  [T, D] contiguous; T may be 0
/// @param weight  [E, D] in the arithmetic type of tokens (float32; float64 for float64)
/// @returns [T, E] in the weight's dtype  @throws ShapeError
/// @cost saves tokens and weight. Where there is no unit for bfloat16, and for float16 tokens: a float32 copy of the tokens, made anew in backward.
at::Tensor wide_linear(const at::Tensor& tokens, const at::Tensor& weight);

}  // namespace pimoe
