#include "proof/drill_run.h"

#include "base/errors.h"
#include "base/text.h"
#include "moe/layout_dependence.h"
#include "proof/precision_tolerance.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

constexpr int64_t kMostSequences = 8;
constexpr int64_t kMostHalvings = 20;  ///< of a loss scale, until it is 1 for certain

/// 0 also where both are not finite: neither layout took the step.
double relative(double ours, double theirs) {
  if (!std::isfinite(ours) && !std::isfinite(theirs)) return 0.0;
  return ours == theirs ? 0.0 : std::abs(ours - theirs) / std::max(std::abs(theirs), 1e-300);
}

/// std::max loses a NaN on its right.
double worse(double worst, double other) { return std::isnan(other) ? other : std::max(worst, other); }

}  // namespace

DrillRun::DrillRun(const DrillPlace& place)
    : place_(place), dtype_(agreed_dtype(place.config.train.precision, place.mesh)), tolerance_(precision_tolerance(dtype_)) {
  if (place.config.model.moe_layers() == 0) {
    throw ConfigError(concat("model.moe.experts (", place.config.model.moe.experts, ") and model.moe.first_dense_layers (",
                             place.config.model.moe.first_dense_layers, ") leave no MoE layer: a drill needs one"));
  }
}

DrillScript DrillRun::script() {
  DrillScript script;
  script.config = place_.config;
  MoeConfig& moe = script.config.model.moe;
  moe.balance.bias_rate = 0;  // the drills set the biases
  if (moe.adaptive.enabled) {
    moe.adaptive.enabled = false;
    note("model.moe.adaptive is left out: it would steer against the drill");
  }
  if (moe.router.temperature < 1) {
    moe.router.temperature = 1;
    note(
        "model.moe.router.temperature is 1 here: logits over less carry their rounding with them, so that one rank's numbers would not be "
        "these");
  }
  if (moe.router.initial_skew != 0) {
    moe.router.initial_skew = 0;
    note("model.moe.router.initial_skew is 0 here: the drill brings its own skew");
  }
  if (!moe.router.replay.empty()) {
    moe.router.replay.clear();
    note("model.moe.router.replay is left out: the routers decide themselves here");
  }
  script.batch = [config = place_.config, ranks = place_.mesh.size()](int64_t step) {
    const int64_t sequences = std::min(config.train.global_batch, kMostSequences);
    return read_batch(config, step * sequences, sequences, config.model.sequence_length, ranks);
  };
  return script;
}

void DrillRun::make_steerable(DrillScript& script) {
  MoeConfig& moe = script.config.model.moe;
  if (moe.steerable()) return;
  moe.router.kind = RouterKind::kSoftmax;
  note("model.moe.router.kind is softmax here: the configured router cannot be told where to send a token");
}

DrillSteps DrillRun::run(const DrillScript& script, const ProcessMesh& mesh) const {
  ObservedModel model(script.config, dtype_, mesh);
  DrillSteps done;
  for (int64_t step = 0; step < script.steps + done.skipped_for_scale; ++step) {
    if (script.prepare) script.prepare(model, step);
    done.steps.push_back(model.step(script.batch(step), script.whole));
    if (script.clean_up) script.clean_up(model, step);
    done.masters.push_back(model.masters());
    const StepRecord& record = done.steps.back().record;
    const bool is_skipped = script.waits_for_loss_scale && record.outcome == StepOutcome::kNotFinite;
    if (is_skipped && record.loss_scale > 1.0 && done.skipped_for_scale < kMostHalvings) ++done.skipped_for_scale;
  }
  return done;
}

DrillSteps DrillRun::on_mesh(const DrillScript& script) const { return run(script, place_.mesh); }

DrillSteps DrillRun::on_one_rank(const DrillScript& script) const {
  if (place_.mesh.rank() != 0) return {};
  const ProcessMesh mesh = one_rank_mesh(place_.config.mesh, place_.session, script.config.model.moe.common_divisor());
  return run(script, mesh);
}

void DrillRun::expect(bool held, const std::string& what) {
  if (place_.mesh.rank() == 0) outcome_.checks.push_back({what, held});
}

void DrillRun::expect_finite(const DrillSteps& run) {
  bool numbers = true;
  for (const ObservedStep& step : run.steps) {
    const bool is_allowed = step.record.outcome == StepOutcome::kTaken || (run.skipped_for_scale > 0 && step.record.loss_scale > 1.0);
    numbers = numbers && std::isfinite(step.record.loss) && is_allowed;
  }
  const int64_t skipped = run.skipped_for_scale;
  if (skipped == 0) {
    expect(numbers, concat("loss and gradient norm are finite in all ", run.steps.size(), " steps"));
  } else {
    note(concat("float16: ", skipped, skipped == 1 ? " step was" : " steps were", " skipped while the loss scale fell from ",
                run.steps.front().record.loss_scale, " to ", run.steps.back().record.loss_scale,
                ", as in training, and as many more made"));
    expect(numbers, concat("losses are finite in all ", run.steps.size(), " steps, gradient norms once the loss scale is small enough"));
  }
  bool weights = true;
  for (const auto& [name, values] : run.masters.back()) weights = weights && at::isfinite(values).all().item<bool>();
  expect(weights, "all weights are finite after the last step");
}

void DrillRun::expect_slots_conserved(const DrillScript& script, const DrillSteps& run) {
  const MoeConfig& moe = script.config.model.moe;
  if (moe.router_traits().by_expert) {
    note("expert choice fills experts, not tokens: that slots are conserved is left out");
    return;
  }
  bool all = true;
  bool kept = true;
  for (size_t step = 0; step < run.steps.size(); ++step) {
    const int64_t slots = script.batch(static_cast<int64_t>(step)).tokens() * moe.choices;
    const RoutingMetrics& routing = *run.steps[step].record.routing;
    for (const std::vector<int64_t>& load : routing.load) {
      int64_t sum = 0;
      for (const int64_t count : load) sum += count;
      all = all && sum == slots;
    }
    for (const double fraction : routing.dropped_fraction) kept = kept && fraction == 0.0;
  }
  expect(all, "slots are conserved: each layer's loads add up to K for every token of the step");
  if (!moe.may_drop()) expect(kept, "no slot is dropped");
}

void DrillRun::expect_same_as_one_rank(const DrillScript& script, const DrillSteps& run, double factor) {
  if (changes_with_layout(script.config.model.moe)) {
    note("capacity_factor, rank_overflow: drop or balance.local_loss changes with the layout: one rank's numbers are not asked for");
    return;
  }
  const DrillSteps one = on_one_rank(script);
  double loss = 0.0;
  double norm = 0.0;
  for (size_t step = 0; step < std::min(one.steps.size(), run.steps.size()); ++step) {
    loss = worse(loss, relative(run.steps[step].record.loss, one.steps[step].record.loss));
    norm = worse(norm, relative(run.steps[step].record.gradient_norm, one.steps[step].record.gradient_norm));
  }
  const double allowed = tolerance_ * factor;
  expect(loss <= allowed,
         concat("every step's loss equals one rank's (worst ", scientific(loss, 1), ", allowed ", scientific(allowed, 1), ")"));
  expect(norm <= 10 * allowed, concat("every step's gradient norm equals one rank's (worst ", scientific(norm, 1), ", allowed ",
                                      scientific(10 * allowed, 1), ")"));
}

void DrillRun::expect_full(const DrillScript& script, const DrillSteps& run, int64_t step, const std::vector<int64_t>& experts,
                           const std::string& what) {
  const int64_t tokens = script.batch(step).tokens();
  bool full = true;
  for (const std::vector<int64_t>& load : run.steps[static_cast<size_t>(step)].record.routing->load) {
    for (const int64_t expert : experts) full = full && load[static_cast<size_t>(expert)] == tokens;
  }
  expect(full, what);
}

void set_biases(ObservedModel& model, const std::vector<int64_t>& experts, double pull) {
  for (MoELayer* layer : model.model().moe_layers()) {
    layer->router().bias().zero_();
    for (const int64_t expert : experts) layer->router().bias()[expert].fill_(pull);
  }
}

}  // namespace pimoe
