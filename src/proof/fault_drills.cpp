#include "base/text.h"
#include "proof/drill_list.h"
#include "proof/drill_run.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace pimoe::drills {
namespace {

constexpr double kHuge = 1e4;            ///< times a router's row
constexpr double kMostHalfZLoss = 1e-3;  ///< the z-loss' gradient grows with the logits

}  // namespace

DrillOutcome one_token(const DrillPlace& place) {
  DrillRun drill(place);
  DrillScript script = drill.script();
  script.batch = [config = place.config, ranks = place.mesh.size()](int64_t step) { return read_batch(config, step, 1, 1, ranks); };
  const DrillSteps run = drill.on_mesh(script);
  drill.expect_finite(run);
  drill.expect_slots_conserved(script, run);
  drill.expect_same_as_one_rank(script, run);
  return drill.outcome();
}

DrillOutcome uneven_ranks(const DrillPlace& place) {
  DrillRun drill(place);
  DrillScript script = drill.script();
  const int ranks = place.mesh.size();
  // One sequence more than ranks, then twice as many less one, then a single one.
  script.batch = [config = place.config, ranks](int64_t step) {
    const std::vector<int64_t> sequences = {ranks + 1, std::max(1, 2 * ranks - 1), 1};
    return read_batch(config, step * 2 * ranks, sequences[static_cast<size_t>(step)], config.model.sequence_length, ranks);
  };
  const DrillSteps run = drill.on_mesh(script);
  drill.expect_finite(run);
  drill.expect_slots_conserved(script, run);
  drill.expect_same_as_one_rank(script, run);
  return drill.outcome();
}

DrillOutcome huge_logit(const DrillPlace& place) {
  DrillRun drill(place);
  DrillScript script = drill.script();
  drill.make_steerable(script);
  BalanceConfig& balance = script.config.model.moe.balance;
  if (place.config.train.precision == Precision::kFloat16 && balance.z_loss > kMostHalfZLoss) {
    balance.z_loss = kMostHalfZLoss;
    drill.note(concat("model.moe.balance.z_loss is ", kMostHalfZLoss, " here: float16 cannot hold the gradient of more at such logits"));
  }
  script.prepare = [](ObservedModel& model, int64_t step) {
    const at::NoGradGuard no_gradients;
    for (MoELayer* layer : model.model().moe_layers()) {
      if (step == 0) model.model().parameters().at(layer->router().name() + ".weight").value[0].mul_(kHuge);
    }
  };
  script.waits_for_loss_scale = true;
  const DrillSteps run = drill.on_mesh(script);
  drill.expect_finite(run);
  drill.expect_slots_conserved(script, run);
  drill.note("logits of 1e4 carry their rounding with them: one rank's numbers are asked for within 100 times the usual tolerance");
  drill.expect_same_as_one_rank(script, run, /*factor=*/100.0);
  return drill.outcome();
}

DrillOutcome nonfinite_input(const DrillPlace& place) {
  DrillRun drill(place);
  DrillScript script = drill.script();
  const int64_t id = script.batch(1).rows[0][0].item<int64_t>();
  const auto row_of = [id](ObservedModel& model) { return model.model().parameters().at("embedding.weight").value.detach()[id]; };
  const auto before = std::make_shared<at::Tensor>();
  script.prepare = [row_of, before](ObservedModel& model, int64_t step) {
    if (step != 1) return;
    at::Tensor row = row_of(model);
    *before = row.clone();
    row.fill_(std::numeric_limits<double>::quiet_NaN());
  };
  script.clean_up = [row_of, before](ObservedModel& model, int64_t step) {
    if (step == 1) row_of(model).copy_(*before);
  };
  const DrillSteps run = drill.on_mesh(script);
  at::Tensor skipped = at::tensor({static_cast<int64_t>(run.steps[1].record.outcome == StepOutcome::kNotFinite ? 1 : 0)}, at::kLong);
  place.mesh.control().all_reduce(skipped);
  drill.expect(skipped.item<int64_t>() == place.mesh.size(), "the step whose first token's embedding is NaN is skipped, on every rank");
  bool same = true;
  for (const auto& [name, values] : run.masters[1]) same = same && values.equal(run.masters[0].at(name));
  drill.expect(same, "no bit of any weight has changed in it");
  bool others = true;
  for (const size_t step : {0, 2}) {
    others = others && run.steps[step].record.outcome == StepOutcome::kTaken && std::isfinite(run.steps[step].record.loss);
  }
  drill.expect(others, "the steps before and after it are taken, with finite losses");
  bool finite = true;
  for (const auto& [name, values] : run.masters[2]) finite = finite && std::isfinite(values.sum().item<double>());
  drill.expect(finite, "all weights are finite after the last step");
  return drill.outcome();
}

}  // namespace pimoe::drills
