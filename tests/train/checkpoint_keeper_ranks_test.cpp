#include "train/checkpoint_keeper.h"

#include "base/text.h"
#include "checkpoint/step_folders.h"
#include "train/tiny_run.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <thread>

namespace pimoe {
namespace {

/// While it lives no file of this process grows beyond a few bytes: writes fail as on a full disk.
class FullDisk {
 public:
  FullDisk() {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit tight{8, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &tight);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

Snapshot snapshot_of_step(int64_t step, int64_t rank, int64_t ranks) {
  Snapshot snapshot;
  snapshot.step = step;
  snapshot.pieces.push_back(
      {"master", Piece{"weight", Box::rows({ranks, 3}, rank, 1), 0, 3}, at::full({3}, static_cast<double>(step), at::kDouble)});
  return snapshot;
}

class Keeper : public ::testing::Test {
 protected:
  CheckpointKeeper keeper(bool asynchronous, OnSaveError on_error = OnSaveError::kContinue) {
    config_.asynchronous = asynchronous ? BesideTraining::kYes : BesideTraining::kNo;
    config_.on_error = on_error;
    config_.retry_seconds = 0.05;
    store_.emplace(folder_.path() / "checkpoints", config_, *mesh_, log_);
    return {*store_, config_, log_, mesh_->rank() == 0};
  }
  Snapshot snapshot(int64_t step) const { return snapshot_of_step(step, mesh_->rank(), mesh_->size()); }

  SharedFolder folder_;
  std::unique_ptr<ProcessMesh> mesh_ = world_mesh({.device = DeviceChoice::kCpu}, 8);
  Logger log_{mesh_->rank()};
  CheckpointConfig config_;
  std::optional<CheckpointStore> store_;
};

TEST_F(Keeper, ASaveThatFailsIsToldAndDueAgainAndTheNextGoodOneEndsThat) {
  for (const bool asynchronous : {false, true}) {
    CheckpointKeeper saves = keeper(asynchronous);
    const int64_t step = asynchronous ? 20 : 10;
    EXPECT_FALSE(saves.is_retry_due());
    {
      const FullDisk full;
      saves.save(snapshot(step), /*last=*/false);
      saves.collect();
    }
    const std::vector<std::string> alarms = saves.take_alarms();
    ASSERT_EQ(alarms.size(), 1u);
    EXPECT_NE(alarms[0].find("was not saved: rank 0: cannot write"), std::string::npos) << alarms[0];
    EXPECT_TRUE(saves.take_alarms().empty());
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    EXPECT_TRUE(saves.is_retry_due());
    saves.save(snapshot(step + 1), false);
    saves.collect();
    EXPECT_FALSE(saves.is_retry_due());
    EXPECT_EQ(store_->newest_good()->filename(), concat("step-000000", step + 1));
    mesh_->control().patient_barrier();
  }
}

TEST_F(Keeper, ASaveBehindOneThatFailsIsLeftOutAndTheLastOneIsNot) {
  CheckpointKeeper saves = keeper(/*asynchronous=*/true);
  {
    const FullDisk full;
    saves.save(snapshot(1), /*last=*/false);
    EXPECT_FALSE(saves.backs_off()) << "it may succeed yet";
    saves.save(snapshot(2), false);
  }
  EXPECT_FALSE(saves.has_begun());
  EXPECT_TRUE(saves.backs_off());
  EXPECT_EQ(saves.take_alarms().size(), 1u);
  saves.save(snapshot(3), /*last=*/true);
  EXPECT_FALSE(saves.backs_off());
  EXPECT_EQ(store_->newest_good()->filename(), "step-00000003");
}

TEST_F(Keeper, ADueSaveWaitsForTheOneBefore) {
  CheckpointKeeper saves = keeper(/*asynchronous=*/true);
  for (const int64_t step : {1, 2, 3}) saves.save(snapshot(step), false);
  EXPECT_TRUE(saves.has_begun());
  saves.save(snapshot(4), /*last=*/true);
  EXPECT_FALSE(saves.has_begun());
  EXPECT_EQ(store_->newest_good()->filename(), "step-00000004");
}

TEST_F(Keeper, WhereErrorsAreToStopTheRunTheyDoOnEveryRank) {
  CheckpointKeeper saves = keeper(/*asynchronous=*/true, OnSaveError::kStop);
  const FullDisk full;
  saves.save(snapshot(10), false);
  EXPECT_THROW(saves.collect(), SaveError);
}

TEST_F(Keeper, AStateThatCanNeverBeSavedStopsTheRunWhateverTheSetting) {
  CheckpointKeeper saves = keeper(/*asynchronous=*/true);
  Snapshot wrong = snapshot(10);
  if (mesh_->rank() == 0) wrong.pieces[0].piece.end = 4;
  saves.save(wrong, false);
  EXPECT_THROW(saves.collect(), SaveError);
}

TEST_F(Keeper, TheLastSaveIsTriedAgain) {
  CheckpointKeeper saves = keeper(/*asynchronous=*/true);
  std::optional<FullDisk> full(std::in_place);
  std::thread helper([&full] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    full.reset();
  });
  saves.save(snapshot(10), /*last=*/true);
  helper.join();
  EXPECT_EQ(store_->newest_good()->filename(), "step-00000010");
}

/// Trains six steps without a save at the end. @param full_from, free_from  the disk is full from one step on, and has room from the other on; 0: never
/// @returns the steps of the checkpoints that are left
std::vector<int64_t> saved_of_six(const SharedFolder& folder, int64_t every_steps, int64_t full_from = 0, int64_t free_from = 0,
                                  double retry_seconds = 30.0) {
  TrainConfig config = tiny_config(folder, concat("every-", every_steps));
  config.mesh.expert_parallel = 1;
  config.train.steps = 6;
  config.checkpoint.every_steps = every_steps;
  config.checkpoint.at_end = false;
  config.checkpoint.keep = 6;
  config.checkpoint.retry_seconds = retry_seconds;
  config.checkpoint.asynchronous = free_from > 0 ? BesideTraining::kNo : BesideTraining::kAuto;
  const auto world = test_session().world();
  const auto mesh = sub_mesh(world->size(), config.mesh, config.model.moe.experts);
  Logger log(1);
  Trainer trainer(config, *mesh, log, nullptr);
  std::optional<FullDisk> full;
  trainer.model().parameters().at("final_norm.weight").value.register_hook([&](const at::Tensor& gradient) {
    if (!full && trainer.step() + 1 == full_from) full.emplace();
    if (full && trainer.step() + 1 == free_from) full.reset();
    return gradient;
  });
  trainer.run();
  world->patient_barrier();
  std::vector<int64_t> saved;
  for (const StepFolder& step : list_steps(config.run.directory / "checkpoints")) saved.push_back(step.step);
  return saved;
}

TEST(WithoutASaveAtTheEnd, TheLastStepIsSavedWhereItIsDue) {
  const SharedFolder folder;
  EXPECT_EQ(saved_of_six(folder, 3), (std::vector<int64_t>{3, 6}));
  EXPECT_EQ(saved_of_six(folder, 4), (std::vector<int64_t>{4}));
  EXPECT_EQ(saved_of_six(folder, 0), (std::vector<int64_t>{}));
}

TEST(AfterASaveThatFailed, DueOnesWaitUntilItIsTriedAgain) {
  const SharedFolder folder;
  constexpr double kLongerThanTheRun = 3600;
  EXPECT_EQ(saved_of_six(folder, 1, /*full_from=*/2, /*free_from=*/3, kLongerThanTheRun), (std::vector<int64_t>{1, 6}));
}

TEST(AfterASaveThatFailed, ItIsTriedAgainThoughNoneIsDue) {
  const SharedFolder folder;
  EXPECT_EQ(saved_of_six(folder, 2, /*full_from=*/2, /*free_from=*/3, /*retry_seconds=*/1e-6), (std::vector<int64_t>{3, 4, 6}));
}

TEST(WithoutASaveAtTheEnd, ARunWhoseSaveFailedBesideItsLastStepsIsNoSuccess) {
  const SharedFolder folder;
  EXPECT_THROW(saved_of_six(folder, 5, /*full_from=*/5), SaveError);
}

}  // namespace
}  // namespace pimoe
