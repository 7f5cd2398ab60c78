#pragma once

namespace pimoe {

/// What became of a step's gradients.
enum class StepOutcome {
  kTaken,      ///< the weights moved
  kNotFinite,  ///< loss or gradients were not finite: the step was skipped, and nothing was updated
  kSpike,      ///< loss or gradient norm was far beyond those before, and train.spikes.action is skip: likewise
};

}  // namespace pimoe
