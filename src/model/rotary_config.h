#pragma once

#include "base/config_fields.h"

#include <cstdint>

namespace pimoe {

/// How rotary frequencies are stretched, for texts longer than those that a model learned from. rotary_table.h has each formula.
enum class RotaryScaling {
  kNone,
  kLinear,   ///< every frequency is divided by the factor (position interpolation, arXiv 2306.15595)
  kDynamic,  ///< the base grows with a text beyond original_length (NTK); up to that length, which is all there is here, it is none
  kYarn,     ///< slow frequencies are divided, fast ones stay, a ramp between them (arXiv 2309.00071)
  kLlama3,   ///< the same with bounds given as wavelengths, and no factor of attention (Llama 3.1, arXiv 2407.21783)
};

/// `model.rotary:`
struct RotaryConfig {
  RotaryScaling scaling = RotaryScaling::kNone;
  double factor = 1.0;                 ///< how many times longer texts become
  int64_t original_length = 0;         ///< tokens of the texts before; 0 is auto: model.sequence_length
  double attention_factor = 0.0;       ///< yarn: cosine and sine times this; 0: it follows from factor, mscale and mscale_all_dim
  double mscale = 0.0;                 ///< yarn: of attention_factor's numerator; 0: plain
  double mscale_all_dim = 0.0;         ///< yarn: of its denominator; in latent attention of the softmax' scale
  double beta_fast = 32.0;             ///< yarn: frequencies that turn as often or oftener in original_length stay
  double beta_slow = 1.0;              ///< yarn: those that turn as seldom or more seldom are divided
  bool truncate = true;                ///< yarn: the ramp begins and ends at whole frequencies
  double low_frequency_factor = 1.0;   ///< llama3: wavelengths above original_length / this are divided
  double high_frequency_factor = 4.0;  ///< llama3: wavelengths below original_length / this stay

  void fields(FieldVisitor& visit);
  /// @param theta  model.rope_theta  @param sequence_length  model.sequence_length
  void validate(double theta, int64_t sequence_length, Violations& violations) const;

  bool operator==(const RotaryConfig&) const = default;
  int64_t original(int64_t sequence_length) const { return original_length > 0 ? original_length : sequence_length; }
};

}  // namespace pimoe
