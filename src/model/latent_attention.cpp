#include "model/latent_attention.h"

#include "ops/rms_norm.h"
#include "ops/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

/// 1 / sqrt(n + r), and with yarn's mscale_all_dim what DeepSeek multiplies it by.
double scale_of(const ModelConfig& config) {
  double scale = 1.0 / std::sqrt(static_cast<double>(config.key_width()));
  const RotaryConfig& rotary = config.rotary;
  if (rotary.scaling == RotaryScaling::kYarn && rotary.mscale_all_dim > 0) {
    const double mscale = yarn_mscale(rotary.factor, rotary.mscale_all_dim);
    scale *= mscale * mscale;
  }
  return scale;
}

/// @param heads [B, S, n, r] of pairs (2i, 2i + 1)  @returns the same numbers in pairs (i, i + r/2)
at::Tensor without_interleaving(const at::Tensor& heads) {
  std::vector<int64_t> pairs = heads.sizes().vec();
  pairs.back() /= 2;
  pairs.push_back(2);
  return heads.view(pairs).transpose(-1, -2).reshape(heads.sizes());
}

}  // namespace

LatentAttention::LatentAttention(ParameterList& parameters, const std::string& name, const ModelConfig& config, at::ScalarType dtype,
                                 InitialDeviation deviation)
    : Attention(scale_of(config)), heads_(config.heads), latent_(config.latent) {
  const auto declare = [&](const char* what, int64_t rows, int64_t columns) {
    return Matrix(parameters, name + what, Box::whole({rows, columns}), Group::kDense, dtype, deviation.inner,
                  config.quantization.of(config.quantization.attention));
  };
  const int64_t queries = heads_ * config.key_width();
  if (latent_.query_rank > 0) {
    query_down_ = declare(".query_down.weight", latent_.query_rank, config.width);
    query_norm_ = &declare_norm(parameters, name + ".query_norm", latent_.query_rank, dtype);
    query_up_ = declare(".query_up.weight", queries, latent_.query_rank);
  } else {
    query_ = declare(".query.weight", queries, config.width);
  }
  kv_down_ = declare(".kv_down.weight", latent_.kv_rank + latent_.rotary_width, config.width);
  kv_norm_ = &declare_norm(parameters, name + ".kv_norm", latent_.kv_rank, dtype);
  kv_up_ = declare(".kv_up.weight", heads_ * (latent_.plain_width + latent_.value_width), latent_.kv_rank);
  declare_output(parameters, name, config, heads_ * latent_.value_width, dtype, deviation);
}

at::Tensor LatentAttention::queries_of(const at::Tensor& hidden) const {
  if (query_.exists()) return query_.multiply(hidden);
  const at::Tensor latent = rms_norm(query_down_.multiply(hidden), query_norm_->value, latent_.norm_epsilon);
  return query_up_.multiply(latent);
}

AttentionHeads LatentAttention::heads_of(const at::Tensor& hidden, const at::Tensor& cosine, const at::Tensor& sine) const {
  const int64_t sequences = hidden.size(0), positions = hidden.size(1);
  const int64_t plain = latent_.plain_width, turning = latent_.rotary_width, rank = latent_.kv_rank;
  const at::Tensor queries = queries_of(hidden).view({sequences, positions, heads_, plain + turning});
  const at::Tensor down = kv_down_.multiply(hidden);
  const at::Tensor latent = rms_norm(down.narrow(2, 0, rank).contiguous(), kv_norm_->value, latent_.norm_epsilon);
  const at::Tensor up = kv_up_.multiply(latent).view({sequences, positions, heads_, plain + latent_.value_width});

  at::Tensor turned = at::cat({queries.narrow(3, plain, turning), down.narrow(2, rank, turning).unsqueeze(2)}, 2);  // [B, S, H + 1, r]
  if (latent_.interleaved) turned = without_interleaving(turned);
  turned = rotary(turned, cosine, sine, heads_ + 1, /*kv_heads=*/0).queries;
  const at::Tensor of_key = turned.narrow(2, heads_, 1).expand({sequences, positions, heads_, turning});
  return {at::cat({queries.narrow(3, 0, plain), turned.narrow(2, 0, heads_)}, 3), at::cat({up.narrow(3, 0, plain), of_key}, 3),
          up.narrow(3, plain, latent_.value_width)};
}

AttentionBytes latent_attention_bytes(const ModelConfig& config, int64_t tokens, ElementBytes bytes, bool on_gpu) {
  const LatentConfig& latent = config.latent;
  const int64_t element = bytes.compute;
  const int64_t queries = config.heads * config.key_width();
  const int64_t values = config.heads * latent.value_width;
  const int64_t up = config.heads * latent.plain_width + values;
  const int64_t width = config.heads * std::max(config.key_width(), latent.value_width);  // that the kernels compute with
  const bool fills_values = latent.value_width < config.key_width();
  const bool fills_keys = latent.value_width > config.key_width();
  AttentionBytes result;
  // Latents before and after their norms; queries and keys; values, in what they were projected to where nothing fills them up; the mixed
  // values, cut out where they were filled up; each head's logsumexp.
  int64_t numbers = 2 * (latent.query_rank + latent.kv_rank) + 2 * width + (fills_values ? width : up) + width;
  if (fills_values) numbers += values;
  result.kept = tokens * (numbers * element + ((latent.query_rank > 0 ? 2 : 1) + config.heads) * bytes.wide);
  // Gradients of all of that at its widest: of what attention takes and gives, and of what that was put together from.
  const int64_t gradients = 4 * width + 2 * queries + up + (fills_values || fills_keys ? 2 * width : 0) + config.width;
  result.workspace = tokens * (gradients * element + width * bytes.wide);
  if (on_gpu && element == 8) {
    const int64_t square = tokens * config.heads * config.sequence_length * element;
    result.kept += square + tokens * 3 * width * element;
    result.workspace += 2 * square;
  }
  return result;
}

}  // namespace pimoe
