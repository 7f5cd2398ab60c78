#include "model/grouped_attention.h"

#include "ops/normed_rotary.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

namespace pimoe {

GroupedAttention::GroupedAttention(ParameterList& parameters, const std::string& name, const ModelConfig& config, at::ScalarType dtype,
                                   InitialDeviation deviation)
    : Attention(std::nullopt),
      heads_(config.heads),
      kv_heads_(config.kv_heads),
      head_size_(config.head_size()),
      norm_epsilon_(config.norm_epsilon),
      norms_projections_(config.norms_projections()) {
  const int64_t rows = (heads_ + 2 * kv_heads_) * head_size_;
  qkv_ = Matrix(parameters, name + ".qkv.weight", Box::whole({rows, config.width}), Group::kDense, dtype, deviation.inner,
                config.quantization.of(config.quantization.attention));
  if (config.qkv_bias) bias_ = &declare_bias(parameters, name + ".qkv", rows, dtype);
  declare_output(parameters, name, config, heads_ * head_size_, dtype, deviation);
  if (config.qk_norm) {
    query_norm_ = &declare_norm(parameters, name + ".q_norm", norms_projections_ ? heads_ * head_size_ : head_size_, dtype);
    key_norm_ = &declare_norm(parameters, name + ".k_norm", norms_projections_ ? kv_heads_ * head_size_ : head_size_, dtype);
  }
}

at::Tensor GroupedAttention::norm_projections(const at::Tensor& projected) const {
  const int64_t queries = heads_ * head_size_;
  const int64_t both = kv_heads_ * head_size_;
  const std::vector<at::Tensor> parts = projected.split_with_sizes({queries, both, both}, -1);
  return at::cat({rms_norm(parts[0].contiguous(), query_norm_->value, norm_epsilon_),
                  rms_norm(parts[1].contiguous(), key_norm_->value, norm_epsilon_), parts[2]},
                 -1);
}

AttentionHeads GroupedAttention::heads_of(const at::Tensor& hidden, const at::Tensor& cosine, const at::Tensor& sine) const {
  at::Tensor projected = qkv_.multiply(hidden);
  if (bias_) projected = projected + bias_->value;
  if (norms_projections_) projected = norm_projections(projected);
  projected = projected.view({hidden.size(0), hidden.size(1), heads_ + 2 * kv_heads_, head_size_});
  return query_norm_ && !norms_projections_
             ? normed_rotary(projected, query_norm_->value, key_norm_->value, norm_epsilon_, cosine, sine, heads_, kv_heads_)
             : rotary(projected, cosine, sine, heads_, kv_heads_);
}

AttentionBytes grouped_attention_bytes(const ModelConfig& config, int64_t tokens, ElementBytes bytes, bool on_gpu) {
  const int64_t queries = config.heads * config.head_size();
  const int64_t both = config.kv_heads * config.head_size();  // keys, or values
  const int64_t element = bytes.compute;
  AttentionBytes result;
  result.kept = tokens * (queries + 2 * both) * element;                    // turned queries, keys and values: one tensor
  result.kept += tokens * (queries * element + config.heads * bytes.wide);  // the mixed values, and each head's logsumexp
  if (config.norms_heads()) result.kept += tokens * ((queries + 2 * both) * element + (config.heads + config.kv_heads) * bytes.wide);
  if (config.norms_projections()) result.kept += tokens * ((queries + both) * element + 2 * bytes.wide);  // what is normed, copied out
  // Gradients of all of that, of the projections' results and of the block's input; fused kernels add up the queries' in float32.
  result.workspace = tokens * ((2 * queries + 2 * (queries + 2 * both) + config.width) * element + queries * bytes.wide);
  if (config.norms_projections()) result.workspace += tokens * (2 * queries + 4 * both) * element;
  const bool grouped = config.heads != config.kv_heads;
  if (on_gpu && (element == 8 || (element == 4 && grouped))) {
    const int64_t square = tokens * config.heads * config.sequence_length * element;
    result.kept += square + tokens * (3 * queries + (grouped ? queries : 0)) * element;
    result.workspace += 2 * square;
  }
  return result;
}

}  // namespace pimoe
