#pragma once

#include <cstdint>

namespace pimoe {

/// Dynamic loss scaling for float16: gradients too small for float16 survive a large factor, and a step whose gradients overflow is skipped.
/// For every other precision the scale is 1 and stays there.
/// @source arXiv 1710.03740, section 3.2; halving and doubling as in PyTorch's GradScaler.
struct LossScaler {
  static constexpr int64_t kGrowthInterval = 2000;  ///< good steps before the scale doubles

  bool dynamic = false;
  double scale = 1.0;
  int64_t good_steps = 0;

  static LossScaler for_float16() { return {.dynamic = true, .scale = 65536.0, .good_steps = 0}; }

  /// @param finite  whether the step's gradients were finite
  void update(bool finite) {
    if (!dynamic) return;
    if (!finite) {
      scale = scale > 1.0 ? scale / 2 : scale;
      good_steps = 0;
    } else if (++good_steps == kGrowthInterval) {
      scale *= 2;
      good_steps = 0;
    }
  }
};

}  // namespace pimoe
