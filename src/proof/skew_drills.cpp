#include "base/errors.h"
#include "base/text.h"
#include "moe/expert_bank.h"
#include "ops/routed_mlp.h"
#include "parallel/device.h"
#include "proof/drill_list.h"
#include "proof/drill_run.h"
#include "train/forecast.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace pimoe::drills {
namespace {

constexpr double kPull = 1e30;                       ///< of a bias that no score can outweigh, logits of any weights included
constexpr double kPeakSlack = 0.01;                  ///< a GPU's allocator rounds each tensor up, and small sums live for a moment
constexpr int64_t kKeptOfLayer = int64_t{64} << 10;  ///< bytes: sums, counts and nodes of a layer's graph, which no forecast counts
constexpr int64_t kHeapNoise = int64_t{1} << 20;     ///< bytes: small models keep less than the C heap moves about

std::vector<int64_t> first_experts(int64_t count) {
  std::vector<int64_t> experts(static_cast<size_t>(count));
  std::iota(experts.begin(), experts.end(), 0);
  return experts;
}

int64_t most_kept(const DrillSteps& run) {
  int64_t most = 0;
  for (const ObservedStep& step : run.steps) most = std::max(most, *step.record.activation_bytes);
  return most;
}

/// Of the steps after the first.
int64_t least_kept(const DrillSteps& run) {
  int64_t least = *run.steps.back().record.activation_bytes;
  for (size_t step = 1; step < run.steps.size(); ++step) least = std::min(least, *run.steps[step].record.activation_bytes);
  return least;
}

/// The experts that fill rank 0 as far as a token's choices can: those that the forecast's worst skew fills, the dearest first.
std::vector<int64_t> experts_of_first(const MoeConfig& moe, int ranks) {
  const ExpertPlacement placement(moe.expert_groups(), ranks, 0);
  std::vector<std::pair<int64_t, int64_t>> dearest;  // minus bytes kept of a row, expert
  for (size_t index = 0; index < placement.banks().size(); ++index) {
    const ExpertPlacement::Bank& bank = placement.banks()[index];
    const int64_t bytes = kept_bytes_of_expert_row(moe.expert_groups()[index], {}, /*gates_early=*/false, /*gates_learn=*/true);
    for (int64_t expert = 0; expert < bank.local; ++expert) dearest.emplace_back(-bytes, bank.first + expert);
  }
  std::sort(dearest.begin(), dearest.end());
  std::vector<int64_t> experts;
  for (const auto& [bytes, expert] : dearest) experts.push_back(expert);
  experts.resize(std::min<size_t>(experts.size(), static_cast<size_t>(moe.choices)));
  return experts;
}

/// What a run's steps kept for backward: on CPUs of the step that kept least, since a heap also takes in what libtorch keeps for itself, such as
/// kernels for numbers of rows that are new; a GPU's allocator counts tensors alone.
int64_t kept_of(const DrillSteps& run, bool on_gpu) { return on_gpu ? most_kept(run) : least_kept(run); }

/// All tokens on one rank, and what `pimoe check` says of it. The first of the drills: a GPU's peak is that of all that ran before.
void expect_memory_as_foretold(DrillRun& drill, const DrillScript& script) {
  const DrillPlace& place = drill.place();
  DrillScript worst = script;
  // The same sequences in each step: on CPUs, products of new shapes would add kernels to the heap that the measurement reads.
  worst.batch = [first = script.batch(0)](int64_t) { return first; };
  const std::vector<int64_t> full = experts_of_first(script.config.model.moe, place.mesh.expert_parallel());
  worst.prepare = [full](ObservedModel& model, int64_t) { set_biases(model, full, kPull); };
  const DrillSteps run = drill.on_mesh(worst);

  TrainConfig config = script.config;
  config.train.global_batch = script.batch(0).sequences();
  const bool on_gpu = place.mesh.device().is_cuda();
  const Forecast forecast(config, {.ranks = place.mesh.size(),
                                   .node_ranks = place.mesh.expert_parallel(),  // what `auto` became
                                   .on_gpu = on_gpu,
                                   .fuses_mlp = has_routed_mlp_kernels(place.mesh.device()),
                                   .dtype = drill.dtype()});
  const MemoryForecast foretold = forecast.memory(kWorstSkew);
  const int64_t kept = kept_of(run, on_gpu);
  const int64_t noise = on_gpu ? 0 : kHeapNoise;
  const auto size = [](int64_t bytes) { return human_bytes(static_cast<double>(bytes)); };
  drill.expect(
      kept <= foretold.activations.kept() + kKeptOfLayer * config.model.layers + noise,
      concat("all tokens on one rank: kept for backward ", size(kept), ", `pimoe check` foretold ", size(foretold.activations.kept())));
  if (!on_gpu) return;
  const int64_t peak = memory_use(place.mesh.device()).peak_bytes;
  drill.expect(static_cast<double>(peak) <= static_cast<double>(foretold.peak(on_gpu)) * (1 + kPeakSlack),
               concat("all tokens on one rank: memory at most ", size(peak), ", `pimoe check` foretold ", size(foretold.peak(on_gpu))));
}

/// The experts of the last of `ranks` ranks.
std::vector<int64_t> experts_of_last(const std::vector<ExpertGroupConfig>& groups, int ranks) {
  std::vector<int64_t> experts;
  const ExpertPlacement placement(groups, ranks, ranks - 1);
  for (const ExpertPlacement::Bank& bank : placement.banks()) {
    for (int64_t local = 0; local < bank.local; ++local) experts.push_back(bank.first + bank.first_local + local);
  }
  return experts;
}

/// The steps on this mesh, of which no number is lost and no slot.
DrillSteps whole_run(DrillRun& drill, const DrillScript& script) {
  DrillSteps run = drill.on_mesh(script);
  drill.expect_finite(run);
  drill.expect_slots_conserved(script, run);
  return run;
}

/// A drill whose routers are made to choose. @param experts  that have a slot of every token in a step  @param what  that shows, for a person
DrillOutcome outcome_of_full_experts(DrillRun& drill, const DrillScript& script,
                                     const std::function<std::vector<int64_t>(int64_t)>& experts,
                                     const std::function<std::string(int64_t)>& what) {
  const DrillSteps run = whole_run(drill, script);
  for (int64_t step = 0; step < script.steps; ++step) {
    drill.expect_full(script, run, step, experts(step), concat("step ", step + 1, ": ", what(step)));
  }
  drill.expect_same_as_one_rank(script, run);
  return drill.outcome();
}

}  // namespace

DrillOutcome one_expert(const DrillPlace& place) {
  DrillRun drill(place);
  DrillScript script = drill.script();
  drill.make_steerable(script);
  expect_memory_as_foretold(drill, script);
  script.prepare = [](ObservedModel& model, int64_t) { set_biases(model, {0}, kPull); };
  const DrillSteps run = whole_run(drill, script);
  for (int64_t step = 0; step < script.steps; ++step) {
    drill.expect_full(script, run, step, {0}, concat("step ", step + 1, ": expert 0 has a slot of every token"));
  }
  drill.expect_same_as_one_rank(script, run);

  DrillScript bounded = script;
  MoeConfig& moe = bounded.config.model.moe;
  moe.capacity_pad = false;
  moe.rank_budget = 1.0;
  moe.rank_overflow = RankOverflow::kChunk;
  const DrillSteps in_rounds = drill.on_mesh(bounded);
  double apart = 0.0;
  for (size_t step = 0; step < run.steps.size(); ++step) {
    apart = std::max(apart, std::abs(in_rounds.steps[step].record.loss / run.steps[step].record.loss - 1.0));
  }
  drill.expect(apart <= drill.tolerance(), concat("with rank_budget 1 the losses are the same (worst ", scientific(apart, 1), ")"));
  const bool on_gpu = place.mesh.device().is_cuda();
  const int64_t at_once = kept_of(run, on_gpu);
  const int64_t bounded_kept = kept_of(in_rounds, on_gpu);
  drill.expect(bounded_kept <= at_once + kHeapNoise,
               concat("with rank_budget 1 no more is kept for backward: ", human_bytes(static_cast<double>(bounded_kept)), " after ",
                      human_bytes(static_cast<double>(at_once))));
  return drill.outcome();
}

DrillOutcome empty_rank(const DrillPlace& place) {
  DrillRun drill(place);
  DrillScript script = drill.script();
  drill.make_steerable(script);
  MoeConfig& moe = script.config.model.moe;
  int ranks = place.mesh.expert_parallel();
  if (ranks == 1) {  // what would be the last rank's, were there more
    ranks = 2;
    while (ranks <= moe.common_divisor() && moe.common_divisor() % ranks != 0) ++ranks;
    if (ranks > moe.common_divisor()) {
      throw ConfigError(concat("drill empty_rank: the experts of model.moe (", moe.experts, moe.groups.empty() ? "" : ", in groups",
                               ") have no common divisor above 1 (", moe.common_divisor(),
                               "): two ranks or more could not share them out, and none could stay empty"));
    }
    drill.note(concat("experts are not shared out: those that the last of ", ranks, " ranks would hold stay empty"));
  }
  const std::vector<int64_t> closed = experts_of_last(moe.expert_groups(), ranks);
  const int64_t open = moe.experts - static_cast<int64_t>(closed.size());
  if (moe.choices > open) {
    moe.choices = open;
    moe.router.groups = moe.router.group_choices = 1;
    drill.note(concat("model.moe.choices is ", open, " here: more would reach the empty rank"));
  }
  script.whole = true;
  script.prepare = [closed](ObservedModel& model, int64_t) { set_biases(model, closed, -kPull); };
  const DrillSteps run = whole_run(drill, script);
  bool empty = true;
  bool zero = true;
  for (const ObservedStep& step : run.steps) {
    for (const std::vector<int64_t>& load : step.record.routing->load) {
      for (const int64_t expert : closed) empty = empty && load[static_cast<size_t>(expert)] == 0;
    }
    int64_t first = 0;  // of a group's experts
    for (const ExpertGroupConfig& group : moe.expert_groups()) {
      const std::string part = ".moe.experts." + (group.name.empty() ? "" : group.name + ".");
      for (const auto& [name, gradient] : step.gradients) {
        if (name.find(part) == std::string::npos) continue;
        for (const int64_t expert : closed) {
          if (expert < first || expert >= first + group.count) continue;
          zero = zero && gradient[expert - first].abs().max().item<double>() == 0.0;
        }
      }
      first += group.count;
    }
  }
  drill.expect(empty, concat("the last rank's ", closed.size(), " experts have no slot in any layer and step"));
  drill.expect(zero, "their gradients are there, and exactly zero");
  drill.expect_same_as_one_rank(script, run);
  return drill.outcome();
}

DrillOutcome rotating_hot_spot(const DrillPlace& place) {
  DrillRun drill(place);
  DrillScript script = drill.script();
  drill.make_steerable(script);
  const int64_t experts = script.config.model.moe.experts;
  script.steps = std::clamp<int64_t>(experts, 3, 6);
  // Far jumps: with experts shared out, from rank to rank.
  const auto hot = [experts, ranks = static_cast<int64_t>(place.mesh.expert_parallel())](int64_t step) {
    return (step * std::max<int64_t>(1, experts / ranks) + step / ranks) % experts;
  };
  script.prepare = [hot](ObservedModel& model, int64_t step) { set_biases(model, {hot(step)}, kPull); };
  return outcome_of_full_experts(
      drill, script, [hot](int64_t step) { return std::vector{hot(step)}; },
      [hot](int64_t step) { return concat("expert ", hot(step), " has a slot of every token"); });
}

DrillOutcome ties(const DrillPlace& place) {
  DrillRun drill(place);
  DrillScript script = drill.script();
  drill.make_steerable(script);
  script.prepare = [](ObservedModel& model, int64_t) {
    const at::NoGradGuard no_gradients;
    for (const auto& parameter : model.model().parameters()) {
      if (parameter->name.find(".moe.router.") != std::string::npos) parameter->value.zero_();  // masters are these weights themselves
    }
  };
  const int64_t choices = script.config.model.moe.choices;
  return outcome_of_full_experts(
      drill, script, [choices](int64_t) { return first_experts(choices); },
      [choices](int64_t) { return concat("of equal scores the lowest indices win, experts 0 to ", choices - 1); });
}

DrillOutcome all_experts(const DrillPlace& place) {
  DrillRun drill(place);
  DrillScript script = drill.script();
  MoeConfig& moe = script.config.model.moe;
  moe.choices = moe.experts;
  moe.router.groups = moe.router.group_choices = 1;
  moe.router.group_top = 0;
  return outcome_of_full_experts(
      drill, script, [&moe](int64_t) { return first_experts(moe.experts); },
      [](int64_t) { return std::string("every expert has a slot of every token"); });
}

}  // namespace pimoe::drills
