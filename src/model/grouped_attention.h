#pragma once

#include "model/attention.h"

namespace pimoe {

/// Grouped-query attention with, by setting, biases, and RMSNorm of queries and keys.
/// @source grouped queries arXiv 2305.13245; rotary arXiv 2104.09864; QK-norm as in Qwen3 (on each head), or OLMoE, arXiv 2409.02060 (on all together).
class GroupedAttention : public Attention {
 public:
  /// Declares name.qkv.weight [(heads + 2 kv_heads) d, D] (queries, keys, values), with qkv_bias name.qkv.bias [(heads + 2 kv_heads) d],
  /// name.output.weight [D, heads d], and with qk_norm name.q_norm.weight and name.k_norm.weight [d], or of all heads [heads d] and [kv_heads d].
  GroupedAttention(ParameterList& parameters, const std::string& name, const ModelConfig& config, at::ScalarType dtype,
                   InitialDeviation deviation);

 private:
  AttentionHeads heads_of(const at::Tensor& hidden, const at::Tensor& cosine, const at::Tensor& sine) const override;
  /// @param projected [B, S, (heads + 2 kv_heads) d]  @returns the same with normed queries and keys
  at::Tensor norm_projections(const at::Tensor& projected) const;

  int64_t heads_;
  int64_t kv_heads_;
  int64_t head_size_;
  double norm_epsilon_;
  bool norms_projections_;
  Matrix qkv_;
  Parameter* bias_ = nullptr;
  Parameter* query_norm_ = nullptr;
  Parameter* key_norm_ = nullptr;
};

AttentionBytes grouped_attention_bytes(const ModelConfig& config, int64_t tokens, ElementBytes bytes, bool on_gpu);

}  // namespace pimoe
