#pragma once

#include "model/transformer.h"
#include "parallel/parameter_buckets.h"
#include "support/ranks.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace pimoe {

/// A configuration small enough for finite differences, with a dense layer, grouped queries and QK-norm in it.
inline ModelConfig tiny_model() {
  ModelConfig config;
  config.layers = 2;
  config.width = 8;
  config.heads = 2;
  config.kv_heads = 1;
  config.sequence_length = 5;
  config.vocabulary = 11;
  config.feed_forward_width = 6;
  config.qk_norm = true;
  config.initial_deviation = 0.3;  // far from linear: finite differences see every term
  config.moe.experts = 4;
  config.moe.choices = 2;
  config.moe.expert_width = 6;
  config.moe.first_dense_layers = 1;
  return config;
}

/// The same with latent attention: values narrower than keys, queries with a latent of their own, stretched positions.
inline ModelConfig tiny_latent_model() {
  ModelConfig config = tiny_model();
  config.qk_norm = false;
  config.latent = {.kv_rank = 5, .query_rank = 4, .plain_width = 4, .rotary_width = 2, .value_width = 3};
  config.rotary = {.scaling = RotaryScaling::kYarn, .factor = 4, .original_length = 3, .mscale = 1, .mscale_all_dim = 0.7};
  return config;
}

/// Each parameter's part that this rank holds of its initial values: those of a model on one rank.
inline void draw_initial_values(ParameterList& parameters, uint64_t seed = 1234) {
  const at::NoGradGuard no_gradients;
  for (const auto& parameter : parameters) {
    const at::Tensor values = at::empty(parameter->box.shape, at::kDouble);
    initial_values(*parameter, {parameter->name, parameter->box, 0, parameter->box.numel()}, seed, values.mutable_data_ptr<double>());
    parameter->value.copy_(values);
  }
}

/// A model on this rank alone with its initial values, in any precision.
struct ModelFixture {
  ModelFixture(const ModelConfig& config, at::ScalarType dtype)
      : mesh(single_mesh(cpu_mesh(), config.moe.common_divisor())),
        model(config, dtype, *mesh),
        buckets(model.parameters(), *mesh, 1 << 20, /*trained=*/true) {
    draw_initial_values(model.parameters());
  }

  /// Cross-entropy and balance losses of one batch, as training adds them up.
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets, RecomputePolicy policy = RecomputePolicy::kNone) {
    const Prediction prediction = model.forward(tokens, targets, {0, tokens.numel()}, policy);
    at::Tensor total = prediction.cross_entropy_sum;
    for (const RoutingRecord& record : prediction.routing) total = total + 0.1 * record.z_sum + 0.1 * record.probability_sum.square().sum();
    return total;
  }

  std::unique_ptr<ProcessMesh> mesh;
  Transformer model;
  ParameterBuckets buckets;
};

inline at::Tensor random_tokens(int64_t batch, int64_t positions, int64_t vocabulary, uint64_t seed) {
  at::manual_seed(seed);
  return at::randint(vocabulary, {batch, positions}, at::kLong);
}

}  // namespace pimoe
