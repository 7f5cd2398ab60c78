#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

struct SoftmaxTopK {
  at::Tensor scores;   ///< [T, E] softmax of the logits
  at::Tensor log_sum;  ///< [T] log of the sum of their exponentials
  at::Tensor chosen;   ///< [T, K] int32, in top_k's order; not differentiated
  at::Tensor gates;    ///< [T, K] the chosen scores, over their sum where they are renormalised
};

struct SoftmaxTopKTerms {
  at::Tensor bias;           ///< [E] like the logits: added to the scores for the choice alone
  int64_t choices = 1;       ///< K
  bool renormalize = false;  ///< gates are divided by their sum, at least `tiny`
  double tiny = 0.0;
  at::Tensor chosen;  ///< [T, K] int32: taken as they are, nothing is chosen; undefined: chosen here
};

/// What a softmax router makes of its logits. Differentiable in them, through scores, log_sum and gates, from the scores and the choice, which alone are kept.
/// @param logits  [T, E] float32 or float64 contiguous
/// @throws ShapeError
/// @cost on a GPU with E of at most 512 and K of at most 32 one kernel forward and one backward, which read and write each number once; else operators
/// @source arXiv 2101.03961 (softmax before the choice); arXiv 2412.19437 eq. 16 (the bias)
SoftmaxTopK softmax_top_k(const at::Tensor& logits, const SoftmaxTopKTerms& terms);

}  // namespace pimoe
