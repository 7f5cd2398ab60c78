#include "train/resume.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "train/tiny_run.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

/// Every rank is told of another path, as ranks that see other folders would be.
class ResumeRanks : public testing::Test {
 protected:
  ResumeRanks() : world_(test_session().world()), mesh_(sub_mesh(world_->size(), cpu_mesh(), 8)), log_(1) {
    TrainConfig first = tiny_config(folder_, "first");
    first.mesh.expert_parallel = 1;
    first.train.steps = 1;
    Trainer(first, *mesh_, log_, nullptr).run();
    world_->patient_barrier();
  }

  std::optional<ResumePoint> look(const std::string& rank_0, const std::string& others) {
    TrainConfig config = tiny_config(folder_, "second");
    config.checkpoint.resume = world_->rank() == 0 ? rank_0 : others;
    CheckpointStore store(config.run.directory / "checkpoints", config.checkpoint, *mesh_, log_);
    return checkpoint_to_resume(config, store, *mesh_, log_);
  }

  SharedFolder folder_;
  std::unique_ptr<HostCommunicator> world_;
  std::unique_ptr<ProcessMesh> mesh_;
  Logger log_;
};

TEST_F(ResumeRanks, RankZeroLooksForAll) {
  const auto found = look((folder_.path() / "first").string(), "/nowhere");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->checkpoint.filename(), "step-00000001");
  EXPECT_NE(found->config.find("sequence_length: 8"), std::string::npos);
  world_->patient_barrier();  // nobody is left behind
}

TEST_F(ResumeRanks, WhatRankZeroDoesNotFindIsEveryRanksError) {
  try {
    look("/nowhere", (folder_.path() / "first").string());
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_EQ(std::string(error.what()), "there is no /nowhere: a checkpoint is a step-* folder, or a run folder");
  }
  world_->patient_barrier();
}

TEST_F(ResumeRanks, OneThatWasLookedForMayBeReplacedAndOneThatWasNamedMayNot) {
  EXPECT_FALSE(look((folder_.path() / "first").string(), "/nowhere")->is_newest_of_run);
  TrainConfig config = tiny_config(folder_, "first");
  CheckpointStore store(config.run.directory / "checkpoints", config.checkpoint, *mesh_, log_);
  config.checkpoint.resume = "auto";
  EXPECT_TRUE(checkpoint_to_resume(config, store, *mesh_, log_)->is_newest_of_run);
  config.checkpoint.resume = (config.run.directory / "checkpoints/step-00000001").string();
  EXPECT_FALSE(checkpoint_to_resume(config, store, *mesh_, log_)->is_newest_of_run);
}

// With a digest of its own: a position from which the first batch would overflow.
TEST_F(ResumeRanks, ACheckpointOfAStateThatNoRunWasInIsRefused) {
  const std::filesystem::path run = folder_.path() / "first/checkpoints";
  if (world_->rank() == 0) {
    Manifest manifest = read_manifest(run / "step-00000001");
    manifest.counters["next_sample"] = INT64_MAX;
    replace_file(run / "step-00000001/manifest.json", to_json(manifest));
  }
  world_->patient_barrier();
  TrainConfig config = tiny_config(folder_, "first");
  config.mesh.expert_parallel = 1;
  config.checkpoint.resume = "auto";
  std::string said;
  try {
    Trainer(config, *mesh_, log_, nullptr);
  } catch (const CheckpointError& error) {
    said = error.what();
  }
  EXPECT_NE(said.find("step-00000001: counters.next_sample (9223372036854775807) must be in [0, "), std::string::npos) << said;
}

TEST_F(ResumeRanks, ACheckpointWithoutFactsOfItsDataIsGoneOnFromAndTheNextOneHasThem) {
  const std::filesystem::path run = folder_.path() / "first/checkpoints";
  if (world_->rank() == 0) {
    Manifest manifest = read_manifest(run / "step-00000001");
    EXPECT_EQ(std::erase_if(manifest.counters, [](const auto& counter) { return is_data_fact(counter.first); }), 2u);
    replace_file(run / "step-00000001/manifest.json", to_json(manifest));
  }
  world_->patient_barrier();
  TrainConfig config = tiny_config(folder_, "first");
  config.mesh.expert_parallel = 1;
  config.train.steps = 2;
  config.checkpoint.resume = "auto";
  Trainer(config, *mesh_, log_, nullptr).run();
  world_->patient_barrier();
  const Manifest next = read_manifest(run / "step-00000002");
  EXPECT_EQ(next.counters.at("data.train.tokens"), TokenFile(config.data.train).token_count());
  EXPECT_GT(next.counters.at("data.train.fingerprint"), 0);
}

}  // namespace
}  // namespace pimoe
