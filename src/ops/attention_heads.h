#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// What attention takes of each position: views of one tensor where one operation made them, so that nothing is copied to tell them apart, and
/// gradients of their own, so that nothing is copied to put those together.
struct AttentionHeads {
  at::Tensor queries;  ///< [B, S, H, d]
  at::Tensor keys;     ///< [B, S, KV, d]
  at::Tensor values;   ///< [B, S, KV, d]; of latent attention of another width

  /// @param heads  [B, S, H + 2 KV, d]: queries, keys and values of each position
  /// @returns views of it
  static AttentionHeads split(const at::Tensor& heads, int64_t queries, int64_t kv_heads);
};

}  // namespace pimoe
