#pragma once

namespace pimoe {

/// What became of a step's gradients.
enum class StepOutcome {
  kTaken,      ///< the weights moved
  kNotFinite,  ///< gradients were not finite: the step was skipped, and nothing was updated
};

}  // namespace pimoe
