#include "base/errors.h"
#include "base/file_io.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/step_folders.h"
#include "train/tiny_run.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <csignal>
#include <functional>
#include <limits>

namespace pimoe {
namespace {

using Json = nlohmann::json;

/// What a step's gradients are multiplied by on rank 0. @param tries  steps begun before it, those that were done again included
using Factor = std::function<double(int64_t step, int64_t tries)>;

struct Trained {
  std::vector<Json> records = {};      ///< metrics.jsonl
  std::vector<Json> rolled_back = {};  ///< metrics.rolled_back.jsonl
  std::map<std::string, at::Tensor> weights = {};
  int64_t next_sample = 0;
};

TrainConfig config_of(const SharedFolder& folder, const std::string& run) {
  TrainConfig config = tiny_config(folder, run);
  config.mesh.expert_parallel = 1;
  config.train.steps = 16;
  config.train.spikes = {.action = OnSpike::kSkip, .sigma = 50, .window = 3};
  config.checkpoint.every_steps = 4;
  config.checkpoint.resume = "auto";
  return config;
}

/// Trains, with gradients that are not what they should be where `factor` is not 1.
Trained train(const TrainConfig& config, const Factor& factor, const StopRequest* stop = nullptr) {
  const auto world = test_session().world();
  const auto mesh = sub_mesh(world->size(), config.mesh, config.model.moe.experts);
  Logger log(1);
  int64_t tries = -1;
  Trainer trainer(config, *mesh, log, stop);
  trainer.model().parameters().at("final_norm.weight").value.register_hook([&](const at::Tensor& gradient) {
    ++tries;  // a global batch of 7 is one micro-step
    return mesh->rank() == 0 ? gradient * factor(trainer.step() + 1, tries) : gradient;
  });
  trainer.run();
  world->patient_barrier();
  Trained run{.records = records_of(config)};
  const std::filesystem::path rolled_back = config.run.directory / "metrics.rolled_back.jsonl";
  if (std::filesystem::exists(rolled_back)) run.rolled_back = records_in(rolled_back);
  for (const auto& parameter : trainer.model().parameters()) run.weights[parameter->name] = parameter->value.detach().clone();
  run.next_sample = read_manifest(find_checkpoint(config.run.directory)).counters.at("next_sample");
  world->patient_barrier();
  return run;
}

constexpr double kInfinite = std::numeric_limits<double>::infinity();

double ordinary(int64_t, int64_t) { return 1.0; }

TEST(Spikes, AreSkippedOnEveryRankAndLeaveNoTrace) {
  const SharedFolder folder;
  const Trained run = train(config_of(folder, "run"), [](int64_t step, int64_t) { return step == 7 || step == 12 ? 1e6 : 1.0; });
  ASSERT_EQ(run.records.size(), 16U);
  for (const Json& record : run.records) {
    const bool is_spike = record["step"] == 7 || record["step"] == 12;
    EXPECT_EQ(record["skipped"], is_spike) << record;
    if (!is_spike) continue;
    EXPECT_EQ(record["skipped_because"], "spike");
    EXPECT_NE(record["alarms"].dump().find("gradient norm"), std::string::npos) << record["alarms"];
  }
  // The same steps skipped for another reason end at the same weights.
  const Trained other = train(config_of(folder, "other"), [](int64_t step, int64_t) { return step == 7 || step == 12 ? kInfinite : 1.0; });
  for (const auto& [name, weight] : run.weights) EXPECT_TRUE(weight.equal(other.weights.at(name))) << name;
}

TEST(Spikes, AreOnlyToldWhereTheyAreToBeReported) {
  const SharedFolder folder;
  TrainConfig config = config_of(folder, "run");
  config.train.spikes.action = OnSpike::kReport;
  const Trained run = train(config, [](int64_t step, int64_t) { return step == 7 ? 1e6 : 1.0; });
  EXPECT_EQ(run.records[6]["skipped"], false);
  EXPECT_NE(run.records[6]["alarms"].dump().find("gradient norm"), std::string::npos);
}

TEST(Rollback, GoesOnFromTheNewestCheckpointWithOtherData) {
  const SharedFolder folder;
  // The steps after 9 are bad until ten of them were skipped, and good when they are done again.
  const auto bad = [](int64_t step, int64_t tries) { return step > 9 && tries < 19 ? kInfinite : 1.0; };
  TrainConfig config = config_of(folder, "run");
  config.train.steps = 24;
  const Trained run = train(config, bad);
  ASSERT_EQ(run.records.size(), 24U) << "each step once";
  for (size_t i = 0; i < run.records.size(); ++i) {
    EXPECT_EQ(run.records[i]["step"], i + 1);
    EXPECT_EQ(run.records[i]["skipped"], false) << run.records[i];
  }
  EXPECT_NE(run.records[8]["alarms"].dump().find("Rolled back from step 19 to step-00000008"), std::string::npos) << run.records[8];
  ASSERT_EQ(run.rolled_back.size(), 11U) << "steps 9 to 19";
  EXPECT_EQ(run.rolled_back[0]["skipped"], false);
  for (size_t i = 1; i < 11; ++i) EXPECT_EQ(run.rolled_back[i]["skipped_because"], "not finite");
  EXPECT_EQ(run.next_sample, 7 * (24 + 11)) << "what the eleven steps had read is passed over";

  // As a run that had those eight steps, and then came to the data behind them.
  TrainConfig first = config_of(folder, "first");
  first.train.steps = 24;
  EXPECT_THROW(train(first, [](int64_t step, int64_t) { return step > 9 ? kInfinite : 1.0; }), Error) << "every rollback fails";
}

TEST(Rollback, StepsThatAreDoneAgainLoseTheirRecordings) {
  const SharedFolder folder;
  TrainConfig config = config_of(folder, "run");
  config.train.steps = 24;
  config.log.routing = {.every_steps = 1, .tokens = 56};
  std::string first = "";  // recorded when the first step is done again
  const auto bad = [&](int64_t step, int64_t tries) {
    if (tries == 19) {
      for (const RoutingLogFile& file : routing_log_files(config.run.directory / "routing"))
        first = std::max(first, file.path.filename().string());
    }
    return step > 9 && tries < 19 ? kInfinite : 1.0;
  };
  train(config, bad);
  EXPECT_EQ(first.substr(0, first.find("-rank")), test_session().world()->rank() == 0 ? "step-00000008" : "");
  EXPECT_EQ(RoutingReplay(config.run.directory / "routing").steps(), "steps 1 to 24");
}

TEST(Rollback, RecordsThatCannotBeMovedDoNotEndTheRun) {
  const SharedFolder folder;
  TrainConfig config = config_of(folder, "run");
  config.train.steps = 24;
  std::filesystem::create_directories(config.run.directory / "metrics.rolled_back.jsonl");  // as on a disk that is full
  const auto run = [&](int64_t step, int64_t tries) {
    if (step == 20 && tries > 20) std::filesystem::remove(config.run.directory / "metrics.rolled_back.jsonl");
    return step > 9 && tries < 19 ? kInfinite : 1.0;
  };
  const Trained trained = train(config, run);
  ASSERT_EQ(trained.records.size(), 24U) << "each step once";
  for (size_t i = 0; i < trained.records.size(); ++i) EXPECT_EQ(trained.records[i]["step"], i + 1);
  EXPECT_EQ(trained.rolled_back.size(), 11U) << "steps 9 to 19";
}

TEST(Rollback, IsTriedSoOftenAndThenTheRunEnds) {
  const SharedFolder folder;
  TrainConfig config = config_of(folder, "run");
  config.train.steps = 40;
  config.train.rollbacks = 2;
  try {
    train(config, [](int64_t step, int64_t) { return step > 5 ? kInfinite : 1.0; });
    FAIL() << "must end";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("after each of 2 rollbacks"), std::string::npos) << error.what();
  }
  // What is left is the checkpoint of step 4, past all data that did not help: each of three times steps 5 to 15.
  EXPECT_EQ(read_manifest(find_checkpoint(config.run.directory)).counters.at("next_sample"), 7 * (4 + 2 * 11));
}

TEST(Rollback, ARunThatSkipsEveryStepAsASpikeEndsAndKeepsItsCheckpoints) {
  const SharedFolder folder;
  TrainConfig config = config_of(folder, "run");
  config.train.steps = 60;
  config.checkpoint.every_steps = 2;
  try {
    train(config, [](int64_t step, int64_t) { return step > 9 ? 1e6 : 1.0; });
    FAIL() << "must end";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("after each of 3 rollbacks"), std::string::npos) << error.what();
  }
  test_session().world()->patient_barrier();
  std::vector<int64_t> saved;
  for (const StepFolder& step : list_steps(config.run.directory / "checkpoints")) saved.push_back(step.step);
  EXPECT_EQ(saved, (std::vector<int64_t>{6, 8})) << "no step that was skipped pushed one out";
}

TEST(Rollback, ARestartInAStreakOfSpikesCountsOn) {
  for (const bool by_an_older_version : {false, true}) {
    const SharedFolder folder;
    TrainConfig config = config_of(folder, "run");
    config.train.steps = 40;
    const StopRequest stop;
    const auto spikes = [&](int64_t step, int64_t) {
      if (step == 15) raise(SIGUSR1);  // the sixth in a row: saves, and leaves
      return step > 9 ? 1e6 : 1.0;
    };
    train(config, spikes, &stop);
    const std::filesystem::path left = find_checkpoint(config.run.directory);
    EXPECT_EQ(left.filename(), "step-00000015");
    EXPECT_EQ(read_manifest(left).counters.at("skipped_in_a_row"), 6);
    EXPECT_EQ(read_manifest(left).counters.at("not_finite_in_a_row"), 0);
    if (by_an_older_version && test_session().world()->rank() == 0) {
      Manifest manifest = read_manifest(left);
      manifest.counters.erase("not_finite_in_a_row");
      replace_file(left / "manifest.json", to_json(manifest));
    }
    test_session().world()->patient_barrier();
    config.train.rollbacks = 0;
    try {
      train(config, [](int64_t, int64_t) { return 1e6; });
      FAIL() << "must end";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("its last 10 steps, up to step 19"), std::string::npos) << error.what();
    }
  }
}

TEST(Rollback, NeedsACheckpointAndLeave) {
  const SharedFolder folder;
  const auto bad = [](int64_t, int64_t) { return kInfinite; };
  TrainConfig config = config_of(folder, "run");
  config.train.steps = 40;
  EXPECT_THROW(train(config, bad), Error) << "there is no checkpoint yet";
  config = config_of(folder, "forbidden");
  config.train.steps = 40;
  config.train.rollbacks = 0;
  EXPECT_THROW(train(config, [](int64_t step, int64_t) { return step > 5 ? kInfinite : 1.0; }), Error);
}

TEST(Rollback, AKilledRunDoesNotMeetTheSameDataAgain) {
  const SharedFolder folder;
  TrainConfig config = config_of(folder, "run");
  config.train.steps = 24;
  config.train.rollbacks = 1;
  EXPECT_THROW(train(config, [](int64_t step, int64_t) { return step > 9 ? kInfinite : 1.0; }), Error);
  // Started again it goes on behind the data of the steps that were skipped.
  const Trained run = train(config, ordinary);
  EXPECT_EQ(run.next_sample, 7 * (24 + 11));
}

}  // namespace
}  // namespace pimoe
