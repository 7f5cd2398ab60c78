#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

namespace pimoe {

/// @param logits  [T, E] float32 or float64
/// @returns the softmax of each row [T, E], and the log of the sum of its exponentials [T]. Differentiable, both from the softmax: it alone is kept for
///          backward, where softmax and logsumexp one after the other keep the logits too, twice what a router that chooses among many experts needs.
std::pair<at::Tensor, at::Tensor> log_sum_softmax(const at::Tensor& logits);

}  // namespace pimoe
