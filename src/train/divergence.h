#pragma once

#include "train/step_outcome.h"

#include <cmath>
#include <cstdint>

namespace pimoe {

/// Whether a run diverges, and what it may save, judged step by step. What it sees is the same on every rank, and so is what it says.
///
/// A step is bad if its gradients or its loss were not finite. Gradients alone spoil nothing: the step was skipped, and the weights are those
/// of the step before. A loss that is not finite says that the weights themselves may be spoiled. A step that was skipped for another reason is
/// not bad.
///
///     bad steps in a row   the last loss is finite                           it is not
///     1                    saves when due, when asked to stop, at the end    saves nothing; the run fails when asked to stop, or at its end
///     2 to 9               saves when asked to stop, and at the end          likewise
///     10                   the run fails, unless float16's scale can fall    the run fails
///
/// Two in a row and more are not saved when due: checkpoints of the same weights again would only push out older ones.
class Divergence {
 public:
  static constexpr int64_t kMostBadInARow = 10;

  /// @param loss            of the step
  /// @param scale_can_fall  float16's loss scale is above 1 still: a smaller one may make the next step's gradients finite
  void observe(StepOutcome outcome, double loss, bool scale_can_fall) {
    loss_is_finite_ = std::isfinite(loss);
    scale_can_fall_ = scale_can_fall;
    bad_in_a_row_ = outcome == StepOutcome::kNotFinite || !loss_is_finite_ ? bad_in_a_row_ + 1 : 0;
  }

  /// A run that goes on from a checkpoint has its count, and weights that are finite.
  void resume(int64_t bad_in_a_row) { bad_in_a_row_ = bad_in_a_row; }

  int64_t bad_in_a_row() const { return bad_in_a_row_; }
  /// The weights are as good as they were before the bad steps, as far as losses can tell.
  bool may_save() const { return loss_is_finite_; }
  bool may_save_when_due() const { return loss_is_finite_ && bad_in_a_row_ <= 1; }
  /// Nothing is to be hoped from further steps.
  bool is_hopeless() const { return bad_in_a_row_ >= kMostBadInARow && !(loss_is_finite_ && scale_can_fall_); }

 private:
  int64_t bad_in_a_row_ = 0;
  bool loss_is_finite_ = true;
  bool scale_can_fall_ = false;
};

}  // namespace pimoe
