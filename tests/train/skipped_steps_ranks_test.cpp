#include "base/errors.h"
#include "checkpoint/step_folders.h"
#include "train/tiny_run.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <limits>
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
  world->barrier();
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

}  // namespace
}  // namespace pimoe
