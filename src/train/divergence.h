#pragma once

/// When a run has failed, what it may save until then, and what people are told.

#include "train/step_outcome.h"

#include <cmath>
#include <cstdint>

namespace pimoe {

inline const char* advice_against_divergence() {
  return "What helps: a lower optimizer.learning_rate, a longer optimizer.warmup_steps, a lower optimizer.clip_norm (0 does not clip), "
         "train.precision=bfloat16 in place of float16; or look at the data of these steps. Checkpoints from before are as they were.";
}

/// For messages: why steps were skipped.
inline constexpr const char* kWhySkipped = "loss or gradients were not finite or far beyond those before";

/// Whether a run diverges, and what it may save, judged step by step. What it sees is the same on every rank, and so is what it says.
///
/// A step is bad if its gradients or its loss were not finite: it is skipped, and the weights are those of the step before. Gradients alone
/// spoil nothing. A loss that is not finite says that the weights themselves may be spoiled; so do gradients that stay bad, because norms
/// hide from the loss how large weights have become. A step that was skipped as a spike is not bad, but ten skipped ones are ten: so many spikes
/// are no outliers, and the step before them may have spoiled what it left.
///
///     bad steps in a row   the last loss is finite                               it is not
///     1                    saves when asked to stop, and at the end              saves nothing; fails when asked to stop, or at its end
///     2 to 9               saves when asked to stop; fails at its end            likewise
///     10                   is hopeless                                           is hopeless
///
/// No skipped step is saved when due, spikes included: the same weights again and again would push out older ones, which may be better. While
/// float16's scale can fall bad steps say nothing of the weights: the first in a row is saved when due, and none makes the run fail.
class Divergence {
 public:
  static constexpr int64_t kMostSkippedInARow = 10;

  /// @param loss            of the step
  /// @param scale_can_fall  float16's loss scale is above 1 still: a smaller one may make the next step's gradients finite
  void observe(StepOutcome outcome, double loss, bool scale_can_fall) {
    loss_is_finite_ = std::isfinite(loss);
    scale_can_fall_ = scale_can_fall;
    const bool is_bad = outcome == StepOutcome::kNotFinite || !loss_is_finite_;
    bad_in_a_row_ = is_bad ? bad_in_a_row_ + 1 : 0;
    skipped_in_a_row_ = is_bad || outcome != StepOutcome::kTaken ? skipped_in_a_row_ + 1 : 0;
  }

  /// A run that goes on from a checkpoint has its counts, and weights that are finite.
  void resume(int64_t bad_in_a_row, int64_t skipped_in_a_row) {
    bad_in_a_row_ = bad_in_a_row;
    skipped_in_a_row_ = skipped_in_a_row;
    loss_is_finite_ = true;
  }

  int64_t bad_in_a_row() const { return bad_in_a_row_; }
  int64_t skipped_in_a_row() const { return skipped_in_a_row_; }
  /// As far as the loss can tell the weights are good: whoever has to stop keeps them.
  bool may_save() const { return loss_is_finite_; }
  bool may_save_when_due() const {
    const bool only_scale = loss_is_finite_ && scale_can_fall_ && bad_in_a_row_ == 1;
    return skipped_in_a_row_ == 0 || (skipped_in_a_row_ == 1 && only_scale);
  }
  /// A run whose last step this was has done what it was asked.
  bool ends_well() const { return loss_is_finite_ && (bad_in_a_row_ <= 1 || scale_can_fall_) && !is_hopeless(); }
  /// Nothing is to be hoped from further steps.
  bool is_hopeless() const {
    const bool only_scale = loss_is_finite_ && scale_can_fall_ && bad_in_a_row_ == skipped_in_a_row_;
    return skipped_in_a_row_ >= kMostSkippedInARow && !only_scale;
  }

 private:
  int64_t bad_in_a_row_ = 0;
  int64_t skipped_in_a_row_ = 0;
  bool loss_is_finite_ = true;
  bool scale_can_fall_ = false;
};

}  // namespace pimoe
