#pragma once

/// The whole model as plainly as it can be said, for `pimoe parity`: ATen in float64 under autograd, a loop over tokens for the router and one
/// over experts for what they compute, one step of all sequences at once. It shares the configuration, the weights and the definition of
/// random draws (base/random.h) with the code that it checks, and nothing else: no fused operation, no dispatch, no rank.
///
/// What depends on the layout (capacity, local_loss, drops over a rank's budget) it does not know.

#include "model/model_config.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pimoe {

struct ReferenceInput {
  ModelConfig config;
  std::map<std::string, at::Tensor> weights;  ///< every parameter by its logical name, whole, float64
  std::vector<at::Tensor> biases;             ///< [E] of each MoE layer: loss-free bias
  at::Tensor rows;                            ///< [G, S + 1] int64: position s predicts s + 1
  at::Tensor begins_document;        ///< [G, S + 1] bool: this token begins one that attention stays inside of; undefined: none does
  std::vector<int64_t> micro_steps;  ///< sequences of each; their sum is G
  uint64_t seed = 0;                 ///< of the router's jitter
  int64_t step = 0;
  /// [N, G S, K] int64 the experts to use, -1 for none: what the run under test chose. In low precision a near-tie may fall otherwise than in
  /// float64, and everything after it would differ; so the decision is judged (`shortfall`), then taken.
  at::Tensor experts;
};

struct ReferenceStep {
  double loss = 0.0;                ///< mean cross-entropy of a token, those left out that begin a document
  at::Tensor token_losses;          ///< [G S]
  at::Tensor logits;                ///< [G S, V]
  std::vector<at::Tensor> gates;    ///< [G S, K] of each MoE layer
  std::vector<at::Tensor> loads;    ///< [E] of each MoE layer, slots counted here
  std::vector<double> switch_loss;  ///< of each MoE layer, unscaled
  std::vector<double> z_loss;       ///< unscaled
  std::vector<double> scaled_loss;  ///< all balance losses of a layer with their coefficients
  std::vector<double> confidence;   ///< mean of a token's largest gate
  /// How far the taken decisions are from the best in float64, of each MoE layer: the worst missing score over the token's largest. 0 where they
  /// are the same.
  std::vector<double> shortfall;
  double largest_score = 0.0;  ///< of attention, before its softmax: probabilities are as uncertain as this number's rounding
  std::map<std::string, at::Tensor> gradients;  ///< of loss + balance losses
};

/// Forward pass and gradients of one step. @cost keeps every activation: as much memory as a [G S, V] and a [heads, S, S] float64 tensor need,
/// times layers.
ReferenceStep reference_step(const ReferenceInput& input);

}  // namespace pimoe
