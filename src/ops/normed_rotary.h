#pragma once

#include "ops/attention_heads.h"

namespace pimoe {

/// What attention does to its projected heads: queries and keys are normed, each head by itself (QK-norm), and turned by their position's
/// angles; values stay as they are. rms_norm of the two parts, then rotary, in one pass and without their copies; differentiable in the heads
/// and both weights.
///
/// @param heads   [B, S, H + 2 KV, d] contiguous, d even, on a GPU at most 1024: queries, keys, values; B may be 0; any floating dtype
/// @param query_weight, key_weight  [d], in the arithmetic type of heads (float32; float64 when heads are)
/// @param cosine, sine  [S, d/2], likewise
/// @returns views of one [B, S, H + 2 KV, d]. Nothing is rounded between norm and rotation.
/// @cost saves heads and one number for each normed head; one pass forward, one backward, which reads the three gradients where they lie, as long
///       as the heads of a position lie side by side
/// @source rms_norm.h, rotary.h; QK-norm: arXiv 2302.05442, section 2.1, with RMSNorm as in Qwen3.
AttentionHeads normed_rotary(const at::Tensor& heads, const at::Tensor& query_weight, const at::Tensor& key_weight, double epsilon,
                             const at::Tensor& cosine, const at::Tensor& sine, int64_t queries, int64_t kv_heads);

}  // namespace pimoe
