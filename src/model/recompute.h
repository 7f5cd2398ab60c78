#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace pimoe {

/// Part of a forward pass: one tensor in, several out. Called twice, it must do the same twice; weights it uses are captured.
using Region = std::function<std::vector<at::Tensor>(const at::Tensor& input)>;

/// Runs `region` without keeping anything for backward but its input; backward runs it again and then through it.
///
/// The gradients have the same bits as without recomputation where the region uses its input in at most two places, so that no sum of three
/// gradients is taken in another order (facts of floating point, not of this code): a residual and a fused norm.
///
/// @param input   requires a gradient
/// @returns the region's outputs; each must depend differentiably on `input` or on weights
std::vector<at::Tensor> recompute(const Region& region, const at::Tensor& input);

}  // namespace pimoe
