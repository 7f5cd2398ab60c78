#pragma once

#include "proof/parity_reference.h"

namespace pimoe {

/// What the reference's router makes of all tokens of a step.
struct ReferenceRouting {
  at::Tensor experts;     ///< [T, K] int64, -1 for none: the decisions taken
  at::Tensor gates;       ///< [T, K], differentiable
  at::Tensor normalised;  ///< [T, E] scores whose sum is 1, differentiable
  at::Tensor z;           ///< [T] logsumexp(logits)^2, differentiable
  double shortfall = 0.0;
};

/// @param tokens   [T, D] float64
/// @param name     of the router: "layers.3.moe.router"
/// @param bias     [E]
/// @param experts  [T, K] the decisions to judge and take
ReferenceRouting reference_router(const ReferenceInput& input, const std::string& name, const at::Tensor& tokens, const at::Tensor& bias,
                                  const at::Tensor& experts);

}  // namespace pimoe
