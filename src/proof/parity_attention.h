#pragma once

/// Attention of the reference (parity_reference.h): each kind as its formula says it, in float64, a loop over heads.

#include "model/model_config.h"

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace pimoe {

/// x / sqrt(mean(x^2) + epsilon) * weight over the last dimension
at::Tensor reference_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon);

/// @param hidden         [G, S, D]  @param name  "layers.0.attention"
/// @param documents      [G, S] number of each position's document in its row, rising: it attends to that one alone, from whose beginning positions count
/// @param largest_score  grows to the largest before the softmax
/// @returns [G, S, D]
at::Tensor reference_attention(const at::Tensor& hidden, const std::map<std::string, at::Tensor>& weights, const std::string& name,
                               const ModelConfig& config, const at::Tensor& documents, double& largest_score);

}  // namespace pimoe
