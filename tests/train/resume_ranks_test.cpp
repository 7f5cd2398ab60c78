#include "train/resume.h"

#include "base/errors.h"
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
    world_->barrier();
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
  world_->barrier();  // nobody is left behind
}

TEST_F(ResumeRanks, WhatRankZeroDoesNotFindIsEveryRanksError) {
  try {
    look("/nowhere", (folder_.path() / "first").string());
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_EQ(std::string(error.what()), "there is no /nowhere: a checkpoint is a step-* folder, or a run folder");
  }
  world_->barrier();
}

}  // namespace
}  // namespace pimoe
