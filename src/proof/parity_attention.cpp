#include "proof/parity_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace pimoe {
namespace {

using Weights = std::map<std::string, at::Tensor>;

/// Queries, keys and values of a position, of as many heads as there are queries: [G, S, H, .].
struct Heads {
  at::Tensor queries, keys, values;
  double scale = 1.0;
};

/// How fast pair i turns. @source arXiv 2309.00071 eq. 23 and its appendix for yarn; Meta's Llama 3.1 code for llama3
double angle(const ModelConfig& config, double i, double width) {
  const RotaryConfig& rotary = config.rotary;
  const double pi = std::acos(-1.0);
  const double plain = 1.0 / std::pow(config.rope_theta, 2 * i / width);
  const double length = static_cast<double>(rotary.original_length == 0 ? config.sequence_length : rotary.original_length);
  if (rotary.scaling == RotaryScaling::kLinear) return plain / rotary.factor;
  if (rotary.scaling == RotaryScaling::kLlama3) {
    const double wavelength = 2 * pi / plain;
    if (wavelength < length / rotary.high_frequency_factor) return plain;
    if (wavelength > length / rotary.low_frequency_factor) return plain / rotary.factor;
    const double smooth =
        (length / wavelength - rotary.low_frequency_factor) / (rotary.high_frequency_factor - rotary.low_frequency_factor);
    return (1 - smooth) * plain / rotary.factor + smooth * plain;
  }
  if (rotary.scaling == RotaryScaling::kYarn) {
    const auto pair_that_turns = [&](double times) {
      return width * std::log(length / (times * 2 * pi)) / (2 * std::log(config.rope_theta));
    };
    double low = pair_that_turns(rotary.beta_fast), high = pair_that_turns(rotary.beta_slow);
    if (rotary.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0);
    high = std::min(high, width - 1);
    if (low == high) high += 0.001;
    const double ramp = std::min(1.0, std::max(0.0, (i - low) / (high - low)));
    return plain / rotary.factor * ramp + plain * (1 - ramp);
  }
  return plain;
}

double mscale(double factor, double of) { return factor > 1 ? 0.1 * of * std::log(factor) + 1 : 1.0; }

double amplitude(const RotaryConfig& rotary) {
  if (rotary.scaling != RotaryScaling::kYarn) return 1.0;
  if (rotary.attention_factor != 0) return rotary.attention_factor;
  if (rotary.mscale != 0 && rotary.mscale_all_dim != 0)
    return mscale(rotary.factor, rotary.mscale) / mscale(rotary.factor, rotary.mscale_all_dim);
  return mscale(rotary.factor, 1);
}

/// Of each of [G, S] how many before it have its document's number.
at::Tensor positions_in(const at::Tensor& documents) {
  const at::Tensor positions = at::zeros(documents.sizes(), at::kDouble);
  for (int64_t row = 0; row < documents.size(0); ++row) {
    int64_t first = 0;
    for (int64_t at = 0; at < documents.size(1); ++at) {
      if (documents[row][at].item<int64_t>() != documents[row][first].item<int64_t>()) first = at;
      positions[row][at] = static_cast<double>(at - first);
    }
  }
  return positions;
}

/// Turns the pairs (i, i + d/2) of every position by its angles. @param heads [G, S, H, d]  @param positions [G, S]
at::Tensor rotated(const at::Tensor& heads, const ModelConfig& config, const at::Tensor& positions) {
  const int64_t half = heads.size(3) / 2;
  const at::Tensor speeds = at::zeros({half}, at::kDouble);
  for (int64_t i = 0; i < half; ++i) speeds[i] = angle(config, static_cast<double>(i), static_cast<double>(heads.size(3)));
  const at::Tensor angles = positions.unsqueeze(-1).unsqueeze(-1) * speeds;  // [G, S, 1, d/2]
  const at::Tensor first = heads.slice(3, 0, half);
  const at::Tensor second = heads.slice(3, half);
  return amplitude(config.rotary) *
         at::cat({first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()}, 3);
}

Heads grouped_heads(const at::Tensor& hidden, const Weights& weights, const std::string& name, const ModelConfig& config,
                    const at::Tensor& positions) {
  const int64_t size = config.head_size();
  at::Tensor qkv = hidden.matmul(weights.at(name + ".qkv.weight").t());
  if (config.qkv_bias) qkv = qkv + weights.at(name + ".qkv.bias");
  qkv = qkv.view({hidden.size(0), hidden.size(1), config.heads + 2 * config.kv_heads, size});
  at::Tensor queries = qkv.slice(2, 0, config.heads);
  at::Tensor keys = qkv.slice(2, config.heads, config.heads + config.kv_heads);
  const at::Tensor values = qkv.slice(2, config.heads + config.kv_heads);
  if (config.qk_norm) {
    const auto normed = [&](const at::Tensor& heads, const std::string& weight) {
      const bool together = config.qk_norm_over == QkNormOver::kProjection;
      return reference_norm(together ? heads.flatten(2) : heads, weights.at(name + weight), config.norm_epsilon).view(heads.sizes());
    };
    queries = normed(queries, ".q_norm.weight");
    keys = normed(keys, ".k_norm.weight");
  }
  const int64_t sharing = config.heads / config.kv_heads;
  return {rotated(queries, config, positions), rotated(keys, config, positions).repeat_interleave(sharing, 2),
          values.repeat_interleave(sharing, 2), 1 / std::sqrt(static_cast<double>(size))};
}

Heads latent_heads(const at::Tensor& hidden, const Weights& weights, const std::string& name, const ModelConfig& config,
                   const at::Tensor& positions) {
  const LatentConfig& latent = config.latent;
  const auto through = [&](const at::Tensor& x, const std::string& weight) { return x.matmul(weights.at(name + weight).t()); };
  const auto normed = [&](const at::Tensor& x, const std::string& weight) {
    return reference_norm(x, weights.at(name + weight), latent.norm_epsilon);
  };
  const auto in_heads = [&](const at::Tensor& x) { return x.view({x.size(0), x.size(1), config.heads, -1}); };
  const auto turned = [&](const at::Tensor& heads) {
    if (!latent.interleaved) return rotated(heads, config, positions);
    return rotated(at::cat({heads.slice(3, 0, std::nullopt, 2), heads.slice(3, 1, std::nullopt, 2)}, 3), config, positions);
  };
  const at::Tensor queries =
      in_heads(latent.query_rank == 0 ? through(hidden, ".query.weight")
                                      : through(normed(through(hidden, ".query_down.weight"), ".query_norm.weight"), ".query_up.weight"));
  const at::Tensor down = through(hidden, ".kv_down.weight");
  const at::Tensor up = in_heads(through(normed(down.slice(2, 0, latent.kv_rank), ".kv_norm.weight"), ".kv_up.weight"));
  const at::Tensor of_keys = turned(down.slice(2, latent.kv_rank).unsqueeze(2)).repeat({1, 1, config.heads, 1});
  double scale = 1 / std::sqrt(static_cast<double>(latent.plain_width + latent.rotary_width));
  if (config.rotary.scaling == RotaryScaling::kYarn && config.rotary.mscale_all_dim != 0) {
    scale *= std::pow(mscale(config.rotary.factor, config.rotary.mscale_all_dim), 2);
  }
  return {at::cat({queries.slice(3, 0, latent.plain_width), turned(queries.slice(3, latent.plain_width))}, 3),
          at::cat({up.slice(3, 0, latent.plain_width), of_keys}, 3), up.slice(3, latent.plain_width), scale};
}

}  // namespace

at::Tensor reference_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  return x / at::sqrt((x * x).mean(-1, true) + epsilon) * weight;
}

at::Tensor reference_attention(const at::Tensor& hidden, const Weights& weights, const std::string& name, const ModelConfig& config,
                               const at::Tensor& documents, double& largest_score) {
  const int64_t length = hidden.size(1);
  const at::Tensor positions = positions_in(documents);
  const Heads heads =
      config.is_latent() ? latent_heads(hidden, weights, name, config, positions) : grouped_heads(hidden, weights, name, config, positions);
  const at::Tensor future = at::ones({length, length}, at::kBool).triu(1);
  const at::Tensor unseen = future.logical_or(documents.unsqueeze(2) != documents.unsqueeze(1));  // [G, S, S]
  std::vector<at::Tensor> mixed;
  for (int64_t head = 0; head < config.heads; ++head) {
    const at::Tensor all = heads.queries.select(2, head).matmul(heads.keys.select(2, head).transpose(1, 2)) * heads.scale;
    largest_score = std::max(largest_score, all.detach().abs().max().item<double>());
    const at::Tensor scores = all.masked_fill(unseen, -std::numeric_limits<double>::infinity());
    const at::Tensor exponentials = at::exp(scores - scores.detach().amax(-1, true));
    mixed.push_back((exponentials / exponentials.sum(-1, true)).matmul(heads.values.select(2, head)));
  }
  return at::cat(mixed, 2).matmul(weights.at(name + ".output.weight").t());
}

}  // namespace pimoe
