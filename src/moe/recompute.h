#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace pimoe {

/// Part of a forward pass: tensors in, tensors out. Called twice, it must do the same twice; weights it uses are captured.
using Region = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs)>;

/// Runs `region` without keeping anything for backward but its inputs; backward runs it again and then through it.
///
/// The gradients have the same bits as without recomputation where the region uses each input in at most two places, so that no sum of three
/// gradients is taken in another order (facts of floating point, not of this code): a residual and a fused norm.
///
/// @param inputs  what the outputs' gradients are wanted of, besides the captured weights; one of them must require a gradient
/// @returns the region's outputs; each must depend differentiably on an input or on weights, or be no floating tensor
std::vector<at::Tensor> recompute(const Region& region, const std::vector<at::Tensor>& inputs);

}  // namespace pimoe
