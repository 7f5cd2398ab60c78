#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/step_folders.h"
#include "train/tiny_run.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <optional>
#include <set>

namespace pimoe {
namespace {

/// Trains six steps on all ranks, saving after each; those in `bad` (the first is 1) have an infinite gradient on rank 0, and a finite loss.
std::vector<int64_t> steps_saved(const SharedFolder& folder, const std::set<int64_t>& bad, TrainOutcome& outcome) {
  TrainConfig config = tiny_config(folder, "run");
  config.train.steps = 6;
  config.mesh.expert_parallel = 1;
  config.checkpoint.every_steps = 1;
  config.checkpoint.keep = 10;
  const auto world = test_session().world();
  const auto mesh = sub_mesh(world->size(), config.mesh, config.model.moe.experts);
  Logger log(1);
  Trainer trainer(config, *mesh, log, nullptr);
  trainer.model().parameters().at("final_norm.weight").value.register_hook([&](const at::Tensor& gradient) {
    const bool is_bad = mesh->rank() == 0 && bad.contains(trainer.step() + 1);
    return is_bad ? gradient * std::numeric_limits<double>::infinity() : gradient;
  });
  outcome = trainer.run();
  world->patient_barrier();
  std::vector<int64_t> saved;
  for (const StepFolder& step : list_steps(config.run.directory / "checkpoints")) saved.push_back(step.step);
  return saved;
}

TEST(SkippedSteps, OneAtTheVeryEndLeavesACompleteRunAndItsCheckpoint) {
  const SharedFolder folder;
  TrainOutcome outcome = TrainOutcome::kStopped;
  EXPECT_EQ(steps_saved(folder, {6}, outcome), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(outcome, TrainOutcome::kComplete);
}

TEST(SkippedSteps, InTheMiddleAreNotSavedWhenDue) {
  const SharedFolder folder;
  TrainOutcome outcome = TrainOutcome::kStopped;
  EXPECT_EQ(steps_saved(folder, {2, 3, 5}, outcome), (std::vector<int64_t>{1, 4, 6}));
  EXPECT_EQ(outcome, TrainOutcome::kComplete);
}

TEST(SkippedSteps, ARunWhoseLastStepsAllWereEndsDiverged) {
  const SharedFolder folder;
  TrainOutcome outcome = TrainOutcome::kStopped;
  EXPECT_THROW(steps_saved(folder, {5, 6}, outcome), Error);
}

/// Where a number that is not finite comes from, on the job's last rank alone.
enum class Poison { kGradient, kExpertGradient, kActivation };

struct Trained {
  std::map<std::string, at::Tensor> values;  ///< weights and router biases
  int64_t skipped = 0;
};

/// Ten steps, of which those in `bad` (the first is 0) are poisoned, or with nothing to poison are passed over: read, and not learned from.
Trained train_with(const SharedFolder& folder, const std::set<int64_t>& bad, std::optional<Poison> poison, double number) {
  TrainConfig config = tiny_config(folder, "none");
  config.model.moe.balance.bias_rate = 0.01;
  const auto world = test_session().world();
  config.mesh.expert_parallel = world->size() == 3 ? 1 : world->size();
  const auto mesh = sub_mesh(world->size(), config.mesh, config.model.moe.experts);
  Learner learner(config, at::kDouble, LossScaler(), *mesh);
  learner.optimizer().initialize(5);
  DataStream data(config.data.train,
                  {.sequence_length = config.model.sequence_length,
                   .vocabulary = config.model.vocabulary,
                   .global_batch = config.train.global_batch,
                   .micro_batch = config.train.micro_batch,
                   .seed = 5,
                   .rank = mesh->group(Group::kBatch).rank(),
                   .ranks = mesh->group(Group::kBatch).size(),
                   .pin = {}},
                  {});
  const bool is_last = mesh->rank() == mesh->size() - 1;
  const auto spoils = [&](Poison here) { return is_last && poison == here && bad.contains(learner.step()); };
  const auto hook = [&](const std::string& name, Poison here) {
    learner.model().parameters().at(name).value.register_hook(
        [&spoils, here, number](const at::Tensor& gradient) { return spoils(here) ? gradient * number : gradient; });
  };
  hook("final_norm.weight", Poison::kGradient);
  hook("layers.1.moe.experts.down.weight", Poison::kExpertGradient);
  const at::Tensor norm = learner.model().parameters().at("layers.1.attention_norm.weight").value.detach();
  Trained result;
  while (learner.step() < 10) {
    const std::vector<MicroBatch> batches = data.next_step();
    if (!poison && bad.contains(learner.step())) {
      learner.set_step(learner.step() + 1);
      continue;
    }
    const at::Tensor before = norm.clone();
    if (spoils(Poison::kActivation)) norm.mul_(number);
    const StepTerms terms = learner.begin_step(config.train.global_batch * config.model.sequence_length);
    const StepSums sums = learner.accumulate_gradients(batches, terms, nullptr);
    norm.copy_(before);
    result.skipped += learner.update(sums).outcome == StepOutcome::kNotFinite ? 1 : 0;
  }
  for (const auto& parameter : learner.model().parameters()) result.values[parameter->name] = parameter->value.detach().clone();
  for (MoELayer* layer : learner.moe_layers()) result.values[layer->router().name() + ".bias"] = layer->router().bias().clone();
  return result;
}

// Moments are compared by the steps that follow.
TEST(SkippedSteps, LeaveTheStateOfARunThatPassesTheirBatchesOver) {
  const SharedFolder folder;
  const std::set<int64_t> bad = {1, 4, 5};
  const Trained expected = train_with(folder, bad, std::nullopt, 1.0);
  EXPECT_EQ(expected.skipped, 0);
  for (const double number : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const Poison poison : {Poison::kGradient, Poison::kExpertGradient, Poison::kActivation}) {
      SCOPED_TRACE(concat("poison ", static_cast<int>(poison), " with ", number));
      const Trained run = train_with(folder, bad, poison, number);
      EXPECT_EQ(run.skipped, 3);
      for (const auto& [name, values] : expected.values) EXPECT_TRUE(at::equal(run.values.at(name), values)) << name;
    }
  }
}

}  // namespace
}  // namespace pimoe
