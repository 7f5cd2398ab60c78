#pragma once

/// What a MoE layer computes, as plainly as it can be said: a loop over tokens and their experts, in float64, under autograd. Shares nothing
/// with the code that it checks.

#include "moe/moe_config.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace pimoe {

struct ReferenceWeights {
  at::Tensor router;   // [E, D]
  at::Tensor gate_up;  // [E, 2F, D]
  at::Tensor down;     // [E, D, F]
};

struct ReferenceOutput {
  at::Tensor tokens;       // [T, D]
  at::Tensor switch_loss;  // E * sum_i f_i P_i over these tokens
  at::Tensor z_loss;       // mean of logsumexp^2
};

inline ReferenceOutput reference_moe(const at::Tensor& tokens, const ReferenceWeights& weights, const at::Tensor& bias,
                                     const MoeConfig& config) {
  const int64_t experts = config.experts;
  const int64_t width = weights.down.size(2);
  std::vector<at::Tensor> rows;
  std::vector<double> share(experts, 0.0);
  at::Tensor mean_probability = at::zeros({experts}, at::kDouble);
  at::Tensor z = at::zeros({}, at::kDouble);
  for (int64_t t = 0; t < tokens.size(0); ++t) {
    const at::Tensor logits = at::mv(weights.router, tokens[t]);
    const at::Tensor exponentials = at::exp(logits - logits.max().detach());
    const at::Tensor p = exponentials / exponentials.sum();
    mean_probability = mean_probability + p / static_cast<double>(tokens.size(0));
    const at::Tensor lse = at::log(at::exp(logits).sum());
    z = z + lse * lse / static_cast<double>(tokens.size(0));

    std::vector<int64_t> order(experts);
    std::iota(order.begin(), order.end(), 0);
    const at::Tensor scores = (p + bias).detach();
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a].item<double>() > scores[b].item<double>(); });

    at::Tensor gates = at::zeros({}, at::kDouble);
    for (int64_t k = 0; k < config.choices; ++k) gates = gates + p[order[k]];
    at::Tensor sum = at::zeros({tokens.size(1)}, at::kDouble);
    for (int64_t k = 0; k < config.choices; ++k) {
      const int64_t e = order[k];
      share[e] += 1.0 / static_cast<double>(tokens.size(0) * config.choices);
      const at::Tensor inner = at::mv(weights.gate_up[e], tokens[t]);
      const at::Tensor gate = inner.slice(0, 0, width);
      const at::Tensor hidden = gate / (1 + at::exp(-gate)) * inner.slice(0, width);
      const at::Tensor weight = config.router.renormalize ? p[e] / gates : p[e];
      sum = sum + weight * at::mv(weights.down[e], hidden);
    }
    rows.push_back(sum);
  }
  ReferenceOutput output;
  output.tokens = rows.empty() ? at::zeros_like(tokens) : at::stack(rows);
  output.switch_loss = static_cast<double>(experts) * at::dot(at::tensor(share, at::kDouble), mean_probability);
  output.z_loss = z;
  return output;
}

}  // namespace pimoe
