#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// Where a leaf's gradient is added up. An operation's backward may put its part there itself, in the sum's precision and without a tensor and a
/// pass more, and returns no gradient for the leaf then. The sink is the leaf's post-accumulate hook (parallel/gradient_reducer.h), which
/// autograd calls in any case: without a gradient, where the operation has used it. A leaf that several operations use gets its gradient in parts
/// then (Parameter::gradient_in_parts). Users: linear_cross_entropy, and on GPUs the experts' products (fused_mlp.cpp).
class GradientSink {
 public:
  struct Room {
    at::Tensor sum;     ///< of the leaf's shape, contiguous, of its arithmetic type
    bool adds = false;  ///< there is something: what comes is added; else overwritten
  };

  virtual ~GradientSink() = default;
  /// @throws ShapeError where no gradient is expected
  virtual Room begin() = 0;
  /// What was announced by begin() is done, or queued on the current stream.
  virtual void end() = 0;
};

/// @returns the leaf's, or null: its gradient goes to autograd, as it does where the leaf has hooks that want to see it (Tensor::register_hook)
GradientSink* gradient_sink_of(const at::Tensor& leaf);

/// sum += term, both of one shape; the term may be of a narrower dtype. By itself libtorch first makes all of such a term once more in the sum's
/// dtype on a CPU: as much memory as the sum, written and read. Here it is a part at a time, which stays in the caches; the bits are the same.
void add_to_sum(const at::Tensor& sum, const at::Tensor& term);

}  // namespace pimoe
