#pragma once

#include "moe/moe_layer.h"
#include "moe/reference_layer.h"
#include "parallel/parameter_buckets.h"

#include <ATen/core/grad_mode.h>

namespace pimoe {

/// A float64 MoE layer with random weights on a mesh, and the whole of its weights for the reference.
struct LayerFixture {
  LayerFixture(const MoeConfig& moe, int64_t width, const ProcessMesh& mesh, uint64_t seed)
      : config(moe),
        layer(parameters, "moe", moe, width, at::kDouble, {0.5, 0.5}, mesh),
        buckets(parameters, mesh, 1 << 20, /*trained=*/true) {
    const at::NoGradGuard no_gradients;
    const auto fill = [&](Parameter& parameter) {
      Piece all{parameter.name, Box::whole(parameter.box.global), 0, parameter.box.global_numel()};
      const at::Tensor values = at::empty(parameter.box.global, at::kDouble);
      initial_values(parameter, all, seed, values.mutable_data_ptr<double>());
      if (parameter.copies == Group::kExpertReplica) {
        parameter.value.copy_(values.narrow(0, parameter.box.offset[0], parameter.box.shape[0]));
      } else {
        parameter.value.copy_(values);
      }
      return values.requires_grad_(true);
    };
    weights.router = fill(parameters.at("moe.router.weight"));
    weights.gate_up = fill(parameters.at("moe.experts.gate_up.weight"));
    weights.down = fill(parameters.at("moe.experts.down.weight"));
  }

  MoeConfig config;
  ParameterList parameters;
  MoELayer layer;
  ParameterBuckets buckets;
  ReferenceWeights weights;
};

/// Largest difference over the largest value of `expected`.
inline double relative_difference(const at::Tensor& actual, const at::Tensor& expected) {
  if (expected.numel() == 0) return actual.numel() == 0 ? 0.0 : 1.0;
  return ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item<double>();
}

}  // namespace pimoe
