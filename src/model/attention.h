#pragma once

#include "model/key_value_cache.h"
#include "model/model_config.h"
#include "moe/weights.h"
#include "ops/attention_heads.h"
#include "parallel/precision.h"

#include <string>

namespace pimoe {

/// Angles of the rotary positions: cosine and sine, [S, d/2] each, at least float32.
struct RotaryTable {
  RotaryTable(const ModelConfig& config, at::ScalarType compute_dtype, c10::Device device);
  at::Tensor cosine;
  at::Tensor sine;
};

/// Causal grouped-query self-attention with rotary positions and, by setting, RMSNorm of queries and keys.
/// @source grouped queries arXiv 2305.13245; rotary arXiv 2104.09864; QK-norm as in Qwen3 (on each head), or OLMoE, arXiv 2409.02060 (on all together).
class Attention {
 public:
  /// Declares name.qkv.weight [(heads + 2 kv_heads) d, D] (queries, keys, values), name.output.weight [D, heads d], and with qk_norm
  /// name.q_norm.weight and name.k_norm.weight [d], or of all heads [heads d] and [kv_heads d].
  Attention(ParameterList& parameters, const std::string& name, const ModelConfig& config, at::ScalarType dtype,
            InitialDeviation deviation);

  /// @param hidden [B, S, D] contiguous, B may be 0, S at most the table's  @returns [B, S, D]
  at::Tensor forward(const at::Tensor& hidden, const RotaryTable& table) const;

  /// The same for tokens behind others whose keys and values are kept; keeps theirs. Not differentiable.
  /// @param hidden [1, T, D] contiguous, of `tokens`  @returns [1, T, D]
  /// @cost of a part's one token: reads what is kept of its sequence; of parts from the beginning one attention each
  at::Tensor extend(const at::Tensor& hidden, const CachedTokens& tokens, LayerCache& cache) const;

 private:
  /// @param projected [B, S, (heads + 2 kv_heads) d]  @returns the same with normed queries and keys
  at::Tensor norm_projections(const at::Tensor& projected) const;
  /// @returns queries and keys normed (with qk_norm) and turned, and values, of [B, S, D]
  AttentionHeads heads_of(const at::Tensor& hidden, const at::Tensor& cosine, const at::Tensor& sine) const;

  int64_t heads_;
  int64_t kv_heads_;
  int64_t head_size_;
  double norm_epsilon_;
  bool norms_projections_;
  Parameter* qkv_;
  Parameter* output_;
  Parameter* query_norm_ = nullptr;
  Parameter* key_norm_ = nullptr;
};

/// A norm's weight: ones at first, at least float32, no decay.
Parameter& declare_norm(ParameterList& parameters, const std::string& name, int64_t width, at::ScalarType compute_dtype);

/// Bytes of Attention::forward.
struct AttentionBytes {
  int64_t kept = 0;       ///< for backward, without the input, which its maker counts
  int64_t workspace = 0;  ///< at most at one time in backward, beside them
};

/// @param tokens  T, whole sequences of model.sequence_length. On a GPU float64, and float32 with grouped queries, have no fused kernel:
///                S x S numbers of each head are kept.
AttentionBytes attention_bytes(const ModelConfig& config, int64_t tokens, ElementBytes bytes, bool on_gpu);

}  // namespace pimoe
