#include "train/optimizer_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pimoe {
namespace {

constexpr double kMostLearningRate = 1e38;  // what a float32 can hold; likewise decay and norm

}  // namespace

void OptimizerConfig::fields(FieldVisitor& visit) {
  visit.number("learning_rate", learning_rate, {.above = 0, .at_most = kMostLearningRate}, "peak learning rate");
  visit.integer("warmup_steps", warmup_steps, {.at_least = 0, .at_most = kMostSteps}, "steps of linear warm-up");
  visit.choice("schedule", schedule,
               {{"constant", Schedule::kConstant},
                {"cosine", Schedule::kCosine},
                {"linear", Schedule::kLinear},
                {"warmup_stable_decay", Schedule::kWarmupStableDecay}},
               "shape after warm-up");
  visit.number("final_ratio", final_ratio, {.at_least = 0, .at_most = 1}, "last learning rate / peak");
  visit.number("decay_share", decay_share, {.above = 0, .at_most = 1}, "share of the steps that warmup_stable_decay falls over");
  visit.number("weight_decay", weight_decay, {.at_least = 0, .at_most = kMostLearningRate}, "decoupled decay; norms are exempt");
  visit.number("beta1", beta1, {.at_least = 0, .below = 1}, "decay of the first moment");
  visit.number("beta2", beta2, {.at_least = 0, .below = 1}, "decay of the second moment");
  visit.number("epsilon", epsilon, {.above = 0, .at_most = 1}, "added to the root of the second moment");
  visit.number("clip_norm", clip_norm, {.at_least = 0, .at_most = kMostLearningRate}, "largest global gradient norm; 0: no clipping");
}

double learning_rate_at(int64_t step, int64_t steps, const OptimizerConfig& config) {
  if (step < config.warmup_steps) {
    return config.learning_rate * static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  // The last step is the one before `steps`; it gets final_ratio exactly.
  const auto span = [](int64_t from, int64_t to) { return static_cast<double>(std::max<int64_t>(1, to - from)); };
  const auto falling = [&](double progress) { return config.final_ratio + (1 - config.final_ratio) * (1 - progress); };
  const double progress = std::min(1.0, static_cast<double>(step - config.warmup_steps) / span(config.warmup_steps, steps - 1));
  double ratio = 1.0;
  switch (config.schedule) {
    case Schedule::kConstant: break;
    case Schedule::kCosine: ratio = falling(0.5 * (1 - std::cos(std::numbers::pi * progress))); break;
    case Schedule::kLinear: ratio = falling(progress); break;
    case Schedule::kWarmupStableDecay: {
      const auto begin = std::max(config.warmup_steps, steps - 1 - static_cast<int64_t>(config.decay_share * static_cast<double>(steps)));
      if (step > begin) ratio = falling(std::min(1.0, static_cast<double>(step - begin) / span(begin, steps - 1)));
      break;
    }
  }
  return config.learning_rate * ratio;
}

}  // namespace pimoe
