#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// What the router decided for T tokens: a value, never a member.
struct Routing {
  at::Tensor experts;  ///< [T, K] int32, a token's experts by falling score, ties by index
  at::Tensor weights;  ///< [T, K] at least float32: gates, differentiable

  // What the balance losses need, summed over this rank's tokens; see balance.h.
  at::Tensor probability_sum;  ///< [E] sum of softmax probabilities, differentiable
  at::Tensor z_sum;            ///< scalar, sum of logsumexp(logits)^2, differentiable
  at::Tensor confidence_sum;   ///< scalar, sum of each token's largest gate, no gradient
};

}  // namespace pimoe
