#include "model/attention.h"

#include "ops/cached_attention.h"
#include "ops/causal_attention.h"
#include "ops/grouped_product.h"
#include "ops/normed_rotary.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

namespace pimoe {
RotaryTable::RotaryTable(const ModelConfig& config, at::ScalarType compute_dtype, c10::Device device) {
  // In float64 whatever the run's precision: float32 angles of late positions are off by their last bits.
  const auto options = at::TensorOptions().dtype(at::kDouble).device(device.is_meta() ? device : c10::Device(c10::DeviceType::CPU));
  const int64_t half = config.head_size() / 2;
  const at::Tensor frequencies = at::pow(config.rope_theta, at::arange(half, options) * (-1.0 / static_cast<double>(half)));
  const at::Tensor angles = at::outer(at::arange(config.sequence_length, options), frequencies);
  cosine = angles.cos().to(device, at_least_float32(compute_dtype));
  sine = angles.sin().to(device, at_least_float32(compute_dtype));
}

Parameter& declare_norm(ParameterList& parameters, const std::string& name, int64_t width, at::ScalarType compute_dtype) {
  return parameters.declare({.name = name + ".weight",
                             .box = Box::whole({width}),
                             .copies = Group::kDense,
                             .dtype = at_least_float32(compute_dtype),
                             .decay = false,
                             .initializer = {Initializer::Kind::kConstant, 1.0},
                             .value = {}});
}

Attention::Attention(ParameterList& parameters, const std::string& name, const ModelConfig& config, at::ScalarType dtype,
                     InitialDeviation deviation)
    : heads_(config.heads),
      kv_heads_(config.kv_heads),
      head_size_(config.head_size()),
      norm_epsilon_(config.norm_epsilon),
      norms_projections_(config.norms_projections()) {
  const Box qkv = Box::whole({(heads_ + 2 * kv_heads_) * head_size_, config.width});
  const Box output = Box::whole({config.width, heads_ * head_size_});
  qkv_ = &declare_weight(parameters, name + ".qkv.weight", qkv, Group::kDense, dtype, deviation.inner);
  output_ = &declare_weight(parameters, name + ".output.weight", output, Group::kDense, dtype, deviation.output);
  if (config.qk_norm) {
    query_norm_ = &declare_norm(parameters, name + ".q_norm", norms_projections_ ? heads_ * head_size_ : head_size_, dtype);
    key_norm_ = &declare_norm(parameters, name + ".k_norm", norms_projections_ ? kv_heads_ * head_size_ : head_size_, dtype);
  }
}

at::Tensor Attention::norm_projections(const at::Tensor& projected) const {
  const int64_t queries = heads_ * head_size_;
  const int64_t both = kv_heads_ * head_size_;
  const std::vector<at::Tensor> parts = projected.split_with_sizes({queries, both, both}, -1);
  return at::cat({rms_norm(parts[0].contiguous(), query_norm_->value, norm_epsilon_),
                  rms_norm(parts[1].contiguous(), key_norm_->value, norm_epsilon_), parts[2]},
                 -1);
}

AttentionHeads Attention::heads_of(const at::Tensor& hidden, const at::Tensor& cosine, const at::Tensor& sine) const {
  at::Tensor projected = linear_layer(hidden, qkv_->value);
  if (norms_projections_) projected = norm_projections(projected);
  projected = projected.view({hidden.size(0), hidden.size(1), heads_ + 2 * kv_heads_, head_size_});
  return query_norm_ && !norms_projections_
             ? normed_rotary(projected, query_norm_->value, key_norm_->value, norm_epsilon_, cosine, sine, heads_, kv_heads_)
             : rotary(projected, cosine, sine, heads_, kv_heads_);
}

at::Tensor Attention::forward(const at::Tensor& hidden, const RotaryTable& table) const {
  const int64_t positions = hidden.size(1);
  const AttentionHeads heads = heads_of(hidden, table.cosine.slice(0, 0, positions), table.sine.slice(0, 0, positions));
  return linear_layer(causal_attention(heads), output_->value);
}

at::Tensor Attention::extend(const at::Tensor& hidden, const CachedTokens& tokens, LayerCache& cache) const {
  if (tokens.count == 0) return at::zeros_like(hidden);
  // Tokens of all sequences stand where one sequence's positions would: each has its own angles.
  const AttentionHeads heads = heads_of(hidden, tokens.cosine, tokens.sine);
  const auto keep = [&](at::Tensor& kept, const at::Tensor& values) {
    kept.view({-1, kv_heads_, head_size_}).index_copy_(0, tokens.places, values.squeeze(0));
  };
  keep(cache.keys, heads.keys);
  keep(cache.values, heads.values);

  const at::Tensor mixed = at::empty({tokens.count, heads_ * head_size_}, hidden.options());
  std::vector<int64_t> rows, sequences, lengths;  // of parts of one token behind others
  int64_t row = 0;
  for (const CachedPart& part : tokens.parts) {
    if (part.first == 0) {
      const auto of_part = [&](const at::Tensor& all) { return all.narrow(1, row, part.count); };
      const at::Tensor own = causal_attention({of_part(heads.queries), of_part(heads.keys), of_part(heads.values)});
      mixed.narrow(0, row, part.count).copy_(own.squeeze(0));
    } else {
      rows.push_back(row);
      sequences.push_back(part.sequence);
      lengths.push_back(part.first + 1);
    }
    row += part.count;
  }
  if (!rows.empty()) {
    const at::Tensor places = at::tensor(rows, at::kLong).to(hidden.device());
    const at::Tensor queries = heads.queries.squeeze(0).index_select(0, places);
    mixed.index_copy_(0, places, cached_attention(queries, cache.keys, cache.values, sequences, lengths));
  }
  return linear_layer(mixed.unsqueeze(0), output_->value);
}

AttentionBytes attention_bytes(const ModelConfig& config, int64_t tokens, ElementBytes bytes, bool on_gpu) {
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
