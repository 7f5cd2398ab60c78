#pragma once

/// Causal attention inside of each document by libtorch's kernels. Seen by ops/causal_attention.cpp alone, which has a kernel of its own for
/// bfloat16 on CPUs.

#include "ops/attention_heads.h"
#include "ops/packed_documents.h"

#include <optional>

namespace pimoe {

/// @param heads  [B, S, H, d], [B, S, KV, d] twice, of one width, B above 0  @param scale  of the scores; nothing: 1 / sqrt(d)
/// @returns [B, S, H, d]; differentiable
/// @cost   CPU: one call of the fused kernel for each document, short ones side by side. GPU: one for all of them (float16 and bfloat16 the
///         flash kernel, float32 the memory-efficient one, whose keys and values are repeated for the queries that share them); float64, and
///         heads wider than those kernels take, one composed call for each document.
at::Tensor document_attention(const AttentionHeads& heads, const PackedDocuments& documents, std::optional<double> scale);

}  // namespace pimoe
