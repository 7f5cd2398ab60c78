#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// Softmax attention in which a position sees itself and those before it; differentiable.
///
/// @param heads     [B, S, H + 2 KV, d] contiguous: queries, keys and values of each position; B may be 0
/// @param queries   H, a multiple of KV: query h looks at keys and values h / (H / KV)
/// @param kv_heads  KV
/// @returns [B, S, H d]; scores are divided by sqrt(d)
/// @cost   no S x S numbers are kept where libtorch has a fused kernel (CPU: always), or for bfloat16 on a CPU with instructions for it, where
///         our own gives the same bits at any number of threads. Kept: heads, the result, [B, H, S] float32.
/// @source gradient from logsumexp and the result alone: FlashAttention, arXiv 2205.14135.
at::Tensor causal_attention(const at::Tensor& heads, int64_t queries, int64_t kv_heads);

}  // namespace pimoe
