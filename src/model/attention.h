#pragma once

#include "model/key_value_cache.h"
#include "model/model_config.h"
#include "model/rotary_table.h"
#include "moe/weights.h"
#include "ops/attention_heads.h"
#include "parallel/precision.h"

#include <memory>
#include <optional>
#include <string>

namespace pimoe {

/// Causal self-attention with rotary positions: some kind of queries, keys and values, a softmax over what came before (of the same document, where
/// rows are packed), one projection back.
class Attention {
 public:
  virtual ~Attention() = default;

  /// @param hidden [B, S, D] contiguous, B may be 0  @param places  of its tokens  @returns [B, S, D]
  at::Tensor forward(const at::Tensor& hidden, const TokenPlaces& places) const;

  /// The same for tokens behind others whose keys and values are kept; keeps theirs. Not differentiable.
  /// @param hidden [1, T, D] contiguous, of `tokens`  @returns [1, T, D]
  at::Tensor extend(const at::Tensor& hidden, const CachedTokens& tokens, const KeyValuePages& kept) const;

 protected:
  /// @param scale  of the scores; nothing: 1 / sqrt(width of a key)
  explicit Attention(std::optional<double> scale) : scale_(scale) {}
  /// Declares name.output.weight [D, columns]: behind what the kind itself declares.
  void declare_output(ParameterList& parameters, const std::string& name, int64_t width, int64_t columns, at::ScalarType dtype,
                      InitialDeviation deviation);

  /// @param hidden [B, S, D] contiguous  @param cosine, sine [S, r/2] of each position  @returns queries and keys, turned, and values
  virtual AttentionHeads heads_of(const at::Tensor& hidden, const at::Tensor& cosine, const at::Tensor& sine) const = 0;

 private:
  std::optional<double> scale_;
  Parameter* output_ = nullptr;
};

/// @returns latent attention with model.latent.kv_rank, else grouped queries; declares its parameters
std::unique_ptr<Attention> make_attention(ParameterList& parameters, const std::string& name, const ModelConfig& config,
                                          at::ScalarType dtype, InitialDeviation deviation);

/// Bytes of Attention::forward.
struct AttentionBytes {
  int64_t kept = 0;       ///< for backward, without the input, which its maker counts
  int64_t workspace = 0;  ///< at most at one time in backward, beside them
};

/// @param tokens  T, whole sequences of model.sequence_length. On a GPU float64, and float32 with grouped queries, have no fused kernel:
///                S x S numbers of each head are kept.
AttentionBytes attention_bytes(const ModelConfig& config, int64_t tokens, ElementBytes bytes, bool on_gpu);

}  // namespace pimoe
