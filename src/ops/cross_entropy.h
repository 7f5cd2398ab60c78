#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace pimoe {

/// Sum over positions of -log softmax(hidden weight^T)[target]; differentiable in hidden and weight. The logits are never whole: they are
/// made for a chunk of positions at a time, and with them the gradients at once (a sum's gradient needs nothing from above but one factor).
/// Logits are float32 at least on a GPU; on the CPU they are in the dtype of hidden. Softmax and sums are float32 (float64 for float64).
///
/// @param hidden   [T, D]; T may be 0 (the sum is 0, gradients are defined zeros)
/// @param weight   [V, D], same dtype
/// @param targets  [T] int64 in [0, V), or -1: the position does not count. Outside: a ShapeError on the CPU, a NaN loss on a GPU
/// @returns a scalar, float32 (float64 for float64); weight's gradient goes to its sink where it has one (gradient_sink.h)
/// @cost keeps [T, D] and [V, D] gradients from forward when gradients are on; no [T, V] tensor beyond one chunk (64 MiB; 1 GiB on a GPU).
/// @source as in Liger-Kernel's fused linear cross-entropy, arXiv 2410.10989, section 3.2.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets);

/// What linear_cross_entropy takes, in bytes.
struct CrossEntropyBytes {
  int64_t kept = 0;      ///< both gradients, from forward to backward
  int64_t forward = 0;   ///< beside them while a chunk is computed
  int64_t backward = 0;  ///< beside them while they are scaled
};

/// @param element, wide  bytes of a number in hidden's dtype, and in the arithmetic type  @param threads  on a CPU
CrossEntropyBytes linear_cross_entropy_bytes(int64_t positions, int64_t width, int64_t vocabulary, int64_t element, int64_t wide,
                                             bool on_gpu, int64_t threads);

}  // namespace pimoe
