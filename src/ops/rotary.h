#pragma once

#include "ops/attention_heads.h"

namespace pimoe {

/// Rotates the queries and keys of every position by that position's angles; values stay as they are; differentiable.
///
/// Pairs are (i, i + d/2), as in GPT-NeoX and Hugging Face's Llama: out[i] = x[i] cos - x[i + d/2] sin,
/// out[i + d/2] = x[i + d/2] cos + x[i] sin.
///
/// @param heads   [B, S, H + 2 KV, d] contiguous, d even; B may be 0; any floating dtype
/// @param cosine, sine  [S, d/2], float32 (float64 when heads are)
/// @returns views of one [B, S, H + 2 KV, d]
/// @cost one pass; nothing of `heads` is saved for backward, which is one pass too: it reads the three gradients where they lie, as long as the
///       heads of a position lie side by side.
/// @source arXiv 2104.09864, eq. 34.
AttentionHeads rotary(const at::Tensor& heads, const at::Tensor& cosine, const at::Tensor& sine, int64_t queries, int64_t kv_heads);

}  // namespace pimoe
