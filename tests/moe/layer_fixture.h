#pragma once

#include "base/text.h"
#include "moe/moe_layer.h"
#include "moe/reference_layer.h"
#include "parallel/parameter_buckets.h"

#include <ATen/core/grad_mode.h>

#include <map>

namespace pimoe {

/// Of tokens that no other rank has more of.
inline BatchContext alone(const at::Tensor& tokens) { return {0, tokens.size(0)}; }

/// A layer small enough to follow by hand.
inline MoeConfig small_moe(int64_t experts, int64_t choices, bool renormalize) {
  MoeConfig config;
  config.experts = experts;
  config.choices = choices;
  config.expert_width = 6;
  config.router.renormalize = renormalize;
  return config;
}

/// A float64 MoE layer with random weights on a mesh, and the whole of its weights for the reference.
struct LayerFixture {
  LayerFixture(const MoeConfig& moe, int64_t width, const ProcessMesh& mesh, uint64_t seed, int64_t vocabulary = 1)
      : config(moe),
        layer(parameters, "moe", moe, width, vocabulary, at::kDouble, {0.5, 0.5}, mesh),
        buckets(parameters, mesh, 1 << 20, /*trained=*/true) {
    const at::NoGradGuard no_gradients;
    for (const auto& parameter : parameters) {
      const Piece all{parameter->name, Box::whole(parameter->box.global), 0, parameter->box.global_numel()};
      const at::Tensor values = at::empty(parameter->box.global, at::kDouble);
      Parameter normal = *parameter;
      normal.initializer = {Initializer::Kind::kNormal, 0.5};  // the logit bias too
      initial_values(normal, all, seed, values.mutable_data_ptr<double>());
      if (parameter->copies == Group::kExpertReplica) {
        parameter->value.copy_(values.narrow(0, parameter->box.offset[0], parameter->box.shape[0]));
      } else {
        parameter->value.copy_(values);
      }
      whole[parameter->name] = values.requires_grad_(true);
    }
    const at::AutoGradMode with_gradients(true);  // the experts below are views of the whole tensors
    weights.router = whole.at("moe.router.weight");
    if (moe.router.projection > 0) weights.projection = whole.at("moe.router.projection.weight");
    if (moe.router.linear_bias) weights.logit_bias = whole.at("moe.router.logit_bias");
    for (const ExpertGroupConfig& group : moe.expert_groups()) {
      const std::string name = "moe.experts" + (group.name.empty() ? "" : "." + group.name);
      const bool gated = group.activation == Activation::kSwiglu || group.activation == Activation::kGeglu;
      for (int64_t expert = 0; expert < group.count; ++expert) {
        ReferenceExpert one{group.activation,
                            whole.at(name + (gated ? ".gate_up.weight" : ".up.weight"))[expert],
                            {},
                            whole.at(name + ".down.weight")[expert]};
        for (int64_t index = 0; index < group.layers - 2; ++index) {
          one.middle.push_back(whole.at(concat(name, ".middle.", index, ".weight"))[expert]);
        }
        weights.experts.push_back(one);
      }
    }
    if (moe.shared_width > 0 && moe.shared_gate) weights.shared_gate = whole.at("moe.shared.gate.weight");
    for (const auto& [name, list] : {std::pair{"shared", &weights.shared}, std::pair{"fallback", &weights.fallback}}) {
      const std::string key = concat("moe.", name);
      if (whole.count(key + ".down.weight") == 0) continue;
      list->push_back({Activation::kSwiglu, whole.at(key + ".gate_up.weight"), {}, whole.at(key + ".down.weight")});
    }
  }

  MoeConfig config;
  ParameterList parameters;
  MoELayer layer;
  ParameterBuckets buckets;
  std::map<std::string, at::Tensor> whole;  // of each parameter, leaves
  ReferenceWeights weights;
};

/// Largest difference over the largest value of `expected`.
inline double relative_difference(const at::Tensor& actual, const at::Tensor& expected) {
  if (expected.numel() == 0) return actual.numel() == 0 ? 0.0 : 1.0;
  return ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item<double>();
}

}  // namespace pimoe
