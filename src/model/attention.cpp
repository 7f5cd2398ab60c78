#include "model/attention.h"

#include "model/grouped_attention.h"
#include "model/latent_attention.h"
#include "ops/causal_attention.h"
#include "ops/head_rows.h"
#include "ops/paged_attention.h"

#include <ATen/ops/zeros_like.h>

namespace pimoe {

void Attention::declare_output(ParameterList& parameters, const std::string& name, const ModelConfig& config, int64_t columns,
                               at::ScalarType dtype, InitialDeviation deviation) {
  output_ = Matrix(parameters, name + ".output.weight", Box::whole({config.width, columns}), Group::kDense, dtype, deviation.output,
                   config.quantization.of(config.quantization.attention));
}

at::Tensor Attention::forward(const at::Tensor& hidden, const TokenPlaces& places) const {
  if (!places.documents) return output_.multiply(causal_attention(heads_of(hidden, places.cosine, places.sine), scale_));
  // Tokens of all rows stand where one row's positions would: each has its own angles.
  const int64_t sequences = hidden.size(0), positions = hidden.size(1);
  const AttentionHeads packed = heads_of(hidden.view({1, sequences * positions, hidden.size(2)}), places.cosine, places.sine);
  const auto in_rows = [&](const at::Tensor& heads) { return heads.view({sequences, positions, heads.size(2), heads.size(3)}); };
  const AttentionHeads heads{in_rows(packed.queries), in_rows(packed.keys), in_rows(packed.values)};
  return output_.multiply(causal_attention(heads, scale_, &*places.documents));
}

at::Tensor Attention::extend(const at::Tensor& hidden, const CachedTokens& tokens, const KeyValuePages& kept) const {
  if (tokens.paged.count == 0) return at::zeros_like(hidden);
  // Tokens of all sequences stand where one sequence's positions would: each has its own angles.
  const AttentionHeads heads = heads_of(hidden, tokens.cosine, tokens.sine);
  keep_in_pages(kept, heads.keys.squeeze(0), heads.values.squeeze(0), tokens.paged);
  const at::Tensor mixed = paged_attention(with_packed_heads(heads.queries).squeeze(0), kept, tokens.paged, scale_);
  return output_.multiply(mixed.unsqueeze(0));
}

std::unique_ptr<Attention> make_attention(ParameterList& parameters, const std::string& name, const ModelConfig& config,
                                          at::ScalarType dtype, InitialDeviation deviation) {
  if (config.is_latent()) return std::make_unique<LatentAttention>(parameters, name, config, dtype, deviation);
  return std::make_unique<GroupedAttention>(parameters, name, config, dtype, deviation);
}

AttentionBytes attention_bytes(const ModelConfig& config, int64_t tokens, ElementBytes bytes, bool on_gpu) {
  return config.is_latent() ? latent_attention_bytes(config, tokens, bytes, on_gpu)
                            : grouped_attention_bytes(config, tokens, bytes, on_gpu);
}

}  // namespace pimoe
