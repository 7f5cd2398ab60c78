#pragma once

#include "parallel/parameter_buckets.h"

#include <memory>

namespace pimoe {

/// Adds up gradients: over micro-steps in the flat buckets (float32), then over each bucket's group, leaving every rank the sum of the
/// slice that it owns. Sums everywhere, never averages: the loss was divided once by the global token count.
///
///     reducer.begin_step();                  forget the last step's gradients
///     for each micro-batch: reducer.begin_backward(last); loss.backward();    each gradient moves into its bucket
///     reducer.finish();                      the rest is launched, and the current stream waits for all sums
///
/// Hooks move what autograd brings; an operation that knows of it adds its part there itself (ops/gradient_sink.h).
///
/// With a GPU, a bucket of the last micro-batch is launched on a side stream as soon as its last gradient is there, while backward goes on;
/// buckets are launched in one fixed order (last declared first), from the thread that runs backward, so that ranks cannot cross.
/// A bucket with a parameter whose gradient comes in parts (Parameter::gradient_in_parts), and those behind it, wait for finish().
/// A parameter that got no gradient counts as zero. @throws ShapeError for calls out of this order, and gradients where none is expected
class GradientReducer {
 public:
  GradientReducer(ParameterBuckets& buckets, const ProcessMesh& mesh);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  void begin_step();
  /// @param last  this backward is the step's last: sums may start
  void begin_backward(bool last);
  void finish();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace pimoe
