#pragma once

#include "model/model_config.h"

namespace pimoe {

/// Floating-point operations of training on one token, forward and backward, without recomputation.
///
/// Two conventions are in use and differ by up to 20 %:
/// * Megatron: 6 x (attention projections + active experts + head) + 6 L heads d S: causal attention halved, no router.
/// * torchtitan: adds the router, and 12 L heads d S: attention as if it were not causal.
///
/// In latent attention, whose keys and values are of two widths, d is their mean, (n + r + v) / 2.
/// @source Megatron-LM num_floating_point_operations; torchtitan get_nparams_and_flops.
struct TokenFlops {
  double megatron = 0.0;
  double torchtitan = 0.0;
};

TokenFlops token_flops(const ModelConfig& config);

/// The same of the experts of one MoE layer alone, 6 x the weights that a token passes: for SwiGLU experts of two layers 18 K D F. Of experts of
/// several shapes at balance.
double expert_flops(const ModelConfig& config);

/// Weights of one layer's attention projections.
int64_t attention_weights(const ModelConfig& config);

/// Parameters of the whole model, and those that one token passes (embedding table not counted as passed, the head is).
struct ParameterCount {
  int64_t total = 0;
  int64_t active = 0;
};
ParameterCount parameter_count(const ModelConfig& config);

}  // namespace pimoe
