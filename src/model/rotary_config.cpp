#include "model/rotary_config.h"

#include "base/number_text.h"
#include "base/text.h"

namespace pimoe {
namespace {

constexpr double kMostFactor = 1e6;

}  // namespace

void RotaryConfig::fields(FieldVisitor& visit) {
  visit.choice("scaling", scaling,
               {{"none", RotaryScaling::kNone},
                {"linear", RotaryScaling::kLinear},
                {"dynamic", RotaryScaling::kDynamic},
                {"yarn", RotaryScaling::kYarn},
                {"llama3", RotaryScaling::kLlama3}},
               "stretches rotary positions, as models do that were made for longer texts than they began with");
  visit.number("factor", factor, {.at_least = 1, .at_most = kMostFactor}, "how many times longer texts are");
  visit.integer_or_auto("original_length", original_length, {.at_least = 1, .at_most = 1 << 24},
                        "tokens of the texts before; auto: model.sequence_length");
  visit.number("attention_factor", attention_factor, {.at_least = 0, .at_most = kMostFactor},
               "yarn: cosine and sine times this; 0: it follows from factor, mscale and mscale_all_dim");
  visit.number("mscale", mscale, {.at_least = 0, .at_most = kMostFactor},
               "yarn: of the attention factor, with mscale_all_dim (DeepSeek); 0: plain");
  visit.number("mscale_all_dim", mscale_all_dim, {.at_least = 0, .at_most = kMostFactor},
               "yarn: divides it, and in latent attention multiplies the softmax' scale; 0: plain");
  visit.number("beta_fast", beta_fast, {.above = 0, .at_most = kMostFactor}, "yarn: turns in original_length from which frequencies stay");
  visit.number("beta_slow", beta_slow, {.above = 0, .at_most = kMostFactor}, "yarn: turns below which they are divided");
  visit.flag("truncate", truncate, "yarn: the ramp begins and ends at whole frequencies");
  visit.number("low_frequency_factor", low_frequency_factor, {.above = 0, .at_most = kMostFactor},
               "llama3: wavelengths above original_length / this are divided");
  visit.number("high_frequency_factor", high_frequency_factor, {.above = 0, .at_most = kMostFactor},
               "llama3: wavelengths below original_length / this stay");
}

void RotaryConfig::validate(double theta, int64_t sequence_length, Violations& violations) const {
  if (scaling == RotaryScaling::kDynamic && sequence_length > original(sequence_length)) {
    violations.add("model.sequence_length",
                   concat("(", sequence_length, ") must be at most model.rotary.original_length (", original_length,
                          ") with model.rotary.scaling dynamic: beyond it each text's length would decide its angles"));
  }
  if (scaling == RotaryScaling::kYarn) {
    if (beta_fast < beta_slow) {
      violations.add("model.rotary.beta_fast",
                     concat("(", shortest(beta_fast), ") must be at least model.rotary.beta_slow (", shortest(beta_slow), ")"));
    }
    if (theta <= 1) violations.add("model.rope_theta", concat("(", shortest(theta), ") must be above 1 with model.rotary.scaling yarn"));
  }
  if (scaling == RotaryScaling::kLlama3 && high_frequency_factor <= low_frequency_factor) {
    violations.add("model.rotary.high_frequency_factor",
                   concat("(", shortest(high_frequency_factor), ") must be above model.rotary.low_frequency_factor (",
                          shortest(low_frequency_factor), ")"));
  }
}

}  // namespace pimoe
