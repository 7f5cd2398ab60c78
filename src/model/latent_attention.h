#pragma once

#include "model/attention.h"

namespace pimoe {

/// Multi-head latent attention: keys and values of all heads come from one narrow latent of each token, and positions turn a part of each head
/// alone, which all keys share.
///
///     queries        W_up norm(W_down x), or W x: [H, n + r], of which r numbers turn
///     latent, k_r    W_kv x: [R] and [r]; k_r turns
///     keys, values   W_kv_up norm(latent): [H, n] and [H, v]; a key is its n numbers and k_r
///
/// @source DeepSeek-V2, arXiv 2405.04434 section 2.1; DeepSeek-V3, arXiv 2412.19437 section 2.1.1.
class LatentAttention : public Attention {
 public:
  /// Declares name.query.weight [H (n + r), D], or with a query rank name.query_down.weight [Q, D], name.query_norm.weight [Q] and
  /// name.query_up.weight [H (n + r), Q]; name.kv_down.weight [R + r, D], name.kv_norm.weight [R], name.kv_up.weight [H (n + v), R];
  /// name.output.weight [D, H v].
  LatentAttention(ParameterList& parameters, const std::string& name, const ModelConfig& config, at::ScalarType dtype,
                  InitialDeviation deviation);

 private:
  AttentionHeads heads_of(const at::Tensor& hidden, const at::Tensor& cosine, const at::Tensor& sine) const override;
  /// @returns [B, S, H (n + r)]
  at::Tensor queries_of(const at::Tensor& hidden) const;

  int64_t heads_;
  LatentConfig latent_;
  Matrix query_;  ///< this, or the three below
  Matrix query_down_;
  Parameter* query_norm_ = nullptr;
  Matrix query_up_;
  Matrix kv_down_;
  Parameter* kv_norm_;
  Matrix kv_up_;
};

AttentionBytes latent_attention_bytes(const ModelConfig& config, int64_t tokens, ElementBytes bytes, bool on_gpu);

}  // namespace pimoe
