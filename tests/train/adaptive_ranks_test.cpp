#include "base/text.h"
#include "train/tiny_run.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pimoe {
namespace {

/// Every layer begins with all tokens on the same two experts.
TrainConfig skewed_config(const SharedFolder& folder, const std::string& run) {
  TrainConfig config = tiny_config(folder, run);
  config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
  config.model.moe.adaptive.enabled = true;
  config.model.moe.adaptive.window = 3;
  config.optimizer.schedule = Schedule::kConstant;
  config.mesh.expert_parallel = test_session().world()->size();
  config.checkpoint.resume = "auto";
  return config;
}

/// Trains on all ranks. @returns the records, without what depends on the clock or the process
std::vector<nlohmann::json> train(const TrainConfig& config, bool skew) {
  const auto world = test_session().world();
  {
    const auto mesh = world_mesh(config.mesh, config.model.moe.experts);
    Logger log(1);
    Trainer trainer(config, *mesh, log, nullptr);
    if (skew) {
      for (MoELayer* layer : trainer.model().moe_layers()) layer->router().bias().slice(0, 0, 2).fill_(1.0);
    }
    EXPECT_EQ(trainer.run(), TrainOutcome::kComplete);
  }
  world->patient_barrier();
  std::vector<nlohmann::json> records = records_of(config);
  for (nlohmann::json& record : records) {
    for (const char* key : {"step_seconds", "tokens_per_second", "memory_bytes", "activation_bytes", "validation_loss"}) record.erase(key);
    for (const std::string timed : {"forward_ms", "backward_ms", "gradients_ms", "moe/dispatch_ms", "moe/experts_ms", "moe/combine_ms"}) {
      for (const char* form : {"", "_worst", "_layers"}) record.erase(timed + form);
    }
  }
  return records;
}

TEST(AdaptiveTraining, MovesTheBiasOfASkewedRouterAndTellsWhy) {
  const SharedFolder folder;
  const auto records = train(skewed_config(folder, "run"), /*skew=*/true);
  ASSERT_EQ(records.size(), 30u);
  EXPECT_EQ(records[0].at("adaptive/bias_rate"), 0.01) << "bias_rate_start";
  size_t moves = 0;
  for (const auto& record : records) moves += record.at("adaptive/moves").size();
  EXPECT_GE(moves, 4u);
  EXPECT_GE(records[2].at("alarms").size(), 2u) << "experts without a slot in either layer";
  EXPECT_NE(records[2].at("adaptive/moves").at(0).get<std::string>().find("bias rate of layer 0"), std::string::npos);
  EXPECT_NE(records[9].at("adaptive/bias_rate"), 0.01);
  EXPECT_LT(records[29].at("moe/maxvio").get<double>(), records[0].at("moe/maxvio").get<double>());
}

TEST(AdaptiveTraining, ResumesToTheSameRecordsAndMoves) {
  const SharedFolder folder;
  const auto whole = train(skewed_config(folder, "whole"), true);
  for (const int64_t cut : {4, 11}) {
    TrainConfig config = skewed_config(folder, concat("cut-", cut));
    config.train.steps = cut;
    train(config, true);
    config.train.steps = 30;
    const auto parts = train(config, false);
    ASSERT_EQ(parts.size(), whole.size()) << "cut after step " << cut;
    for (size_t step = 0; step < whole.size(); ++step) {
      ASSERT_EQ(nlohmann::json::diff(whole[step], parts[step]), nlohmann::json::array()) << "cut after step " << cut;
    }
  }
}

// The loaded model is proved at the temperature that it was saved with, whatever the run goes on with.
TEST(AdaptiveTraining, MayBeTurnedOffAtEitherTemperature) {
  const SharedFolder folder;
  for (const double temperature : {1.0, 1.25}) {
    TrainConfig config = skewed_config(folder, concat("run-", temperature));
    config.model.moe.adaptive.window = 1;
    config.model.moe.adaptive.bias_rate_max = 0;    // nothing but the temperature can move,
    config.model.moe.adaptive.switch_loss_max = 0;  // after four looks of a step that got no better
    config.train.steps = 6;
    EXPECT_EQ(train(config, true).back().at("adaptive/temperature"), 1.25);
    config.model.moe.adaptive.enabled = false;
    config.model.moe.router.temperature = temperature;
    config.train.steps = 8;
    EXPECT_EQ(train(config, false).size(), 8u);
  }
}

TEST(AdaptiveTraining, BeginsAfreshFromACheckpointWithoutItsState) {
  const SharedFolder folder;
  TrainConfig config = skewed_config(folder, "run");
  config.model.moe.adaptive.enabled = false;
  config.train.steps = 5;
  for (const auto& record : train(config, true)) EXPECT_FALSE(record.contains("adaptive/bias_rate"));
  config.model.moe.adaptive.enabled = true;
  config.train.steps = 10;
  const auto records = train(config, false);
  ASSERT_EQ(records.size(), 10u);
  EXPECT_EQ(records[5].at("adaptive/bias_rate"), 0.01);
}

// A hash router's load follows the tokens alone: control that "moved" its bias would log what changes nothing.
TEST(AdaptiveTraining, MovesNothingThatAHashRouterWouldNotFollow) {
  const SharedFolder folder;
  for (const bool enabled : {true, false}) {
    TrainConfig config = skewed_config(folder, concat("run-", enabled));
    config.model.moe.router.kind = RouterKind::kHash;
    config.model.moe.adaptive.enabled = enabled;
    if (!enabled) config.model.moe.balance.bias_rate = 0.01;
    config.train.steps = 6;
    for (const auto& record : train(config, false)) {
      EXPECT_FALSE(record.contains("adaptive/moves"));
      EXPECT_EQ(record.at("moe/bias_max"), 0.0);
    }
  }
}

}  // namespace
}  // namespace pimoe
