#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace pimoe {

/// Softmax attention of one position each of several sequences to the keys and values that are kept of it and of those before it. Not differentiable.
///
/// @param queries    [B, H, d]: of sequence b its newest position
/// @param keys, values  [C, S, KV, d] and [C, S, KV, v], what is kept, H a multiple of KV: query h looks at keys and values h / (H / KV)
/// @param sequences  [B] which of the C each query belongs to, none twice
/// @param lengths    [B] how many positions of it there are, the query's own included; at least 1
/// @param scale      of the scores; nothing: 1 / sqrt(d)
/// @returns [B, H v]
/// @cost  reads lengths' largest number of positions of each sequence, and copies them first unless `sequences` are neighbours in rising order
at::Tensor cached_attention(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                            const std::vector<int64_t>& sequences, const std::vector<int64_t>& lengths,
                            std::optional<double> scale = std::nullopt);

}  // namespace pimoe
