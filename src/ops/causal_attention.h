#pragma once

#include "ops/attention_heads.h"
#include "ops/packed_documents.h"

#include <optional>

namespace pimoe {

/// Softmax attention in which a position sees itself and those before it; differentiable.
///
/// @param heads  [B, S, H, d] queries, [B, S, KV, d] keys and [B, S, KV, v] values, H a multiple of KV: query h looks at keys and values
///               h / (H / KV); B may be 0. Without a copy if the d numbers of a head lie side by side, and on the CPU the heads of a position,
///               and v is d: otherwise the narrower ones are filled up with zeros, and computed with.
/// @param scale  of the scores; nothing: 1 / sqrt(d)
/// @param documents  of the B S tokens: a position sees those of its own document alone, and what no position of a block sees is not computed;
///               null: a sequence is one document
/// @returns [B, S, H v]
/// @cost   no S x S numbers are kept where libtorch has a fused kernel (CPU: always), or for bfloat16 on a CPU with instructions for it, where
///         our own gives the same bits at any number of threads. Kept: heads, the result, [B, H, S] float32.
/// @source gradient from logsumexp and the result alone: FlashAttention, arXiv 2205.14135.
at::Tensor causal_attention(const AttentionHeads& heads, std::optional<double> scale = std::nullopt,
                            const PackedDocuments* documents = nullptr);

}  // namespace pimoe
