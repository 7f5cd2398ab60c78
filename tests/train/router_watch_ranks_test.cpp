#include "train/tiny_run.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

/// Trains up to `steps` on all ranks, two of the experts of every layer closed for ever, without adaptive control.
void train(TrainConfig config, int64_t steps) {
  config.train.steps = steps;
  const auto mesh = world_mesh(config.mesh, config.model.moe.experts);
  Logger log(1);
  Trainer trainer(config, *mesh, log, nullptr);
  for (MoELayer* layer : trainer.model().moe_layers()) layer->router().bias().slice(0, 0, 2).fill_(-10);
  trainer.run();
}

std::vector<std::string> alarms_of(const TrainConfig& config) {
  std::vector<std::string> alarms;
  for (const auto& record : records_of(config)) {
    if (!record.contains("alarms")) continue;
    for (const auto& alarm : record.at("alarms")) alarms.push_back(alarm);
  }
  return alarms;
}

// A look is 10 steps, and the second run is restarted after every 4 of 24. Layer 1 is the first with experts.
TEST(RouterWatch, ARunRestartedMoreOftenThanALookAlarmsLikeOneThatIsNot) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "whole");
  config.optimizer.schedule = Schedule::kConstant;
  config.checkpoint.resume = "auto";
  config.model.layers = 3;
  config.model.moe.first_dense_layers = 1;
  TrainConfig restarted = config;
  restarted.run.directory = folder.path() / "restarted";
  train(config, 24);
  for (int64_t steps = 4; steps <= 24; steps += 4) train(restarted, steps);
  test_session().world()->patient_barrier();
  const std::vector<std::string> alarms = alarms_of(config);
  ASSERT_EQ(alarms.size(), 2u) << "each of two layers once";
  EXPECT_EQ(alarms[0], "step 10: layer 1: experts 0, 1 had no slot in 10 steps");
  EXPECT_EQ(alarms[1], "step 10: layer 2: experts 0, 1 had no slot in 10 steps");
  EXPECT_EQ(alarms_of(restarted), alarms);
}

}  // namespace
}  // namespace pimoe
