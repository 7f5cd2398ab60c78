#include "base/errors.h"
#include "serve/engine.h"
#include "serve/served_model.h"
#include "train/tiny_run.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <memory>
#include <string>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// Each rank looks at a run from a folder of its own, as ranks of several nodes do.
class CheckpointLoaderRanks : public testing::Test {
 protected:
  CheckpointLoaderRanks()
      : world_(test_session().world()), mesh_(sub_mesh(world_->size(), cpu_mesh(), 8)), log_(1), before_(fs::current_path()) {
    TrainConfig first = tiny_config(folder_, "run");
    first.train.steps = 1;
    Trainer(first, *mesh_, log_, nullptr).run();
    world_->barrier();
    here_ = folder_.path() / std::to_string(world_->rank());
    fs::create_directories(here_);
    fs::copy(folder_.path() / "run", here_ / "run", fs::copy_options::recursive);
    fs::current_path(here_);
    world_->barrier();
  }
  ~CheckpointLoaderRanks() override { fs::current_path(before_); }

  bool is_last() const { return world_->rank() == world_->size() - 1; }
  static void damage() {
    for (const auto& file : fs::directory_iterator("run/checkpoints/step-00000001")) {
      if (file.path().extension() == ".h5") fs::resize_file(file.path(), 100);
    }
  }

  SharedFolder folder_;
  std::unique_ptr<HostCommunicator> world_;
  std::unique_ptr<ProcessMesh> mesh_;
  Logger log_;
  fs::path before_, here_;
};

TEST_F(CheckpointLoaderRanks, WhatOneRankCannotReadIsEveryRanksError) {
  const ModelLoader loader = checkpoint_loader(test_session());
  EXPECT_EQ(loader("run").step, 1);
  if (is_last()) damage();
  try {
    loader("run");
    FAIL() << "rank " << world_->rank() << " has loaded it";
  } catch (const CheckpointError& error) {
    const std::string said = error.what();
    EXPECT_NE(said.find(".h5"), std::string::npos) << said;
    if (world_->size() > 1) {
      EXPECT_EQ(said.find(std::string("rank ") + std::to_string(world_->size() - 1) + ": "), 0u) << said;
    }
  }
  world_->barrier();  // nobody is left behind
}

// As when SIGHUP comes: rank 0's engine asks for it, the others follow.
TEST_F(CheckpointLoaderRanks, AReloadThatOneRankCannotReadLeavesAllServingTheOldModel) {
  const ModelLoader loader = checkpoint_loader(test_session());
  Engine engine(loader("run"), TokenTexts(), {}, loader);
  if (is_last()) damage();
  world_->barrier();
  if (world_->rank() != 0) return engine.follow();
  EXPECT_THROW(engine.reload("run"), CheckpointError);
  std::promise<GenerationEnding> ended;
  GenerationRequest request;
  request.prompt = {3, 7};
  request.max_tokens = 3;
  engine.submit(request, [&](const GenerationUpdate& update) {
    if (update.ending) ended.set_value(*update.ending);
  });
  EXPECT_EQ(ended.get_future().get(), GenerationEnding::kLength);
}

}  // namespace
}  // namespace pimoe
