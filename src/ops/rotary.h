#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// Rotates the first `rotated_heads` heads of every position by that position's angles and copies the others; differentiable.
///
/// Pairs are (i, i + d/2), as in GPT-NeoX and Hugging Face's Llama: out[i] = x[i] cos - x[i + d/2] sin,
/// out[i + d/2] = x[i + d/2] cos + x[i] sin.
///
/// @param heads   [B, S, H, d] contiguous, d even; B may be 0; any floating dtype
/// @param cosine, sine  [S, d/2], float32 (float64 when heads are)
/// @returns [B, S, H, d]
/// @cost one pass; nothing of `heads` is saved for backward.
/// @source arXiv 2104.09864, eq. 34.
at::Tensor rotary(const at::Tensor& heads, const at::Tensor& cosine, const at::Tensor& sine, int64_t rotated_heads);

}  // namespace pimoe
