#include "train/run_lock.h"

#include "base/errors.h"
#include "base/text.h"
#include "train/tiny_run.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <set>
#include <string>

namespace {
int flock_error = 0;
}

/// In place of libc's, so that this program's file system has no locks where a test wants that.
extern "C" int flock(int descriptor, int operation) {
  if (flock_error == 0) return static_cast<int>(syscall(SYS_flock, descriptor, operation));
  errno = flock_error;
  return -1;
}

namespace pimoe {
namespace {

namespace fs = std::filesystem;

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

class RunLockOnRanks : public testing::Test {
 protected:
  RunLockOnRanks() : world_(test_session().world()), mesh_(sub_mesh(world_->size(), cpu_mesh(), 8)), run_(folder_.path() / "run") {
    if (world_->rank() == 0) fs::create_directory(run_);
    world_->patient_barrier();
  }

  /// Saves every step; rank 0 does something in the third.
  /// @returns what the run threw as ConfigError, the same on every rank; "nothing"
  std::string said_of_a_run(const std::function<void()>& in_step_three) {
    TrainConfig config = tiny_config(folder_, "run");
    config.mesh.expert_parallel = 1;
    config.train.steps = 8;
    config.checkpoint.every_steps = 1;
    config.checkpoint.asynchronous = BesideTraining::kNo;  // nothing is being written while the folder goes
    Logger log(1);
    RunLock lock(run_, *mesh_, log);
    Trainer trainer(config, *mesh_, log, nullptr, &lock);
    trainer.model().parameters().at("final_norm.weight").value.register_hook([&](const at::Tensor& gradient) {
      if (trainer.step() == 2 && world_->rank() == 0 && !std::exchange(done_, true)) in_step_three();
      return gradient;
    });
    std::string said = "nothing";
    try {
      trainer.run();
    } catch (const ConfigError& error) {
      said = error.what();
    }
    for (const std::string& other : world_->all_gather_text(said)) EXPECT_EQ(other, said);
    return said;
  }

  SharedFolder folder_;
  std::unique_ptr<HostCommunicator> world_;
  std::unique_ptr<ProcessMesh> mesh_;
  fs::path run_;
  bool done_ = false;
};

TEST_F(RunLockOnRanks, ARunWhoseFolderIsMovedAwayEndsAndMakesNoOther) {
  const std::string said = said_of_a_run([&] { fs::rename(run_, folder_.path() / "away"); });
  EXPECT_NE(said.find(concat("run.directory (", run_.string(), ") was removed or moved away")), std::string::npos) << said;
  EXPECT_FALSE(fs::exists(run_));
  EXPECT_TRUE(fs::exists(folder_.path() / "away/checkpoints/step-00000002/manifest.json"));
  EXPECT_FALSE(fs::exists(folder_.path() / "away/checkpoints/step-00000004"));
}

TEST_F(RunLockOnRanks, ARunWritesNothingIntoTheFolderOfAnotherJobInItsPlace) {
  const std::string said = said_of_a_run([&] {
    fs::remove_all(run_);
    fs::create_directory(run_);
    const FileLock of_another_job(run_ / "lock");
  });
  EXPECT_NE(said.find("is not this run's any more"), std::string::npos) << said;
  EXPECT_EQ(std::distance(fs::directory_iterator(run_), fs::directory_iterator()), 1) << "the other job's lock alone";
}

TEST_F(RunLockOnRanks, ARunWhoseLockAloneIsRemovedGoesOnAndLetsNobodyIn) {
  std::string refused;
  const std::string said = said_of_a_run([&] {
    fs::remove(run_ / "lock");
    try {
      const FolderLock of_another_job(run_);
    } catch (const IoError& error) {
      refused = error.what();
    }
  });
  EXPECT_EQ(said, "nothing");
  if (world_->rank() == 0) {
    EXPECT_NE(refused.find("another process holds its lock"), std::string::npos) << "before the file is there again";
    EXPECT_TRUE(fs::exists(run_ / "lock"));
    EXPECT_TRUE(fs::exists(run_ / "checkpoints/step-00000008/manifest.json"));
  }
  world_->patient_barrier();
}

// Where the file system has no locks of folders another job may have come in.
TEST_F(RunLockOnRanks, ARunWhoseLockAnotherJobHoldsEnds) {
  std::optional<FileLock> of_another_job;
  const std::string said = said_of_a_run([&] {
    fs::remove(run_ / "lock");
    of_another_job.emplace(run_ / "lock");
  });
  EXPECT_NE(said.find("its file lock, which keeps other jobs out, was removed"), std::string::npos) << said;
}

TEST_F(RunLockOnRanks, ARunThatIsLeftAloneIsDone) {
  EXPECT_EQ(said_of_a_run([] {}), "nothing");
}

TEST_F(RunLockOnRanks, WhereTheFileSystemHasNoLocksARunIsDoneWithAWarningAndItsFolderIsWatched) {
  const fs::path log_file = folder_.path() / concat("log-", world_->rank());
  for (const int code : {ENOSYS, EOPNOTSUPP, ENOLCK}) {
    flock_error = code;
    Logger log(1);
    log.open_file(log_file);
    EXPECT_EQ(RunLock(run_, *mesh_, log).trouble(), "");
  }
  if (world_->rank() == 0) {
    const std::string said = read_file(log_file);
    EXPECT_NE(said.find("this file system has no locks, so that nothing keeps a second job out of run.directory"), std::string::npos)
        << said;
  }
  const std::string moved = said_of_a_run([&] { fs::rename(run_, folder_.path() / "away"); });
  flock_error = 0;
  EXPECT_NE(moved.find("was removed or moved away"), std::string::npos) << moved;
}

TEST_F(RunLockOnRanks, ALinkToTheRunFolderItselfIsNoOtherJob) {
  if (world_->rank() == 0) fs::create_directory_symlink(".", run_ / "checkpoints");
  world_->patient_barrier();
  Logger log(1);
  EXPECT_NO_THROW(RunLock(run_, *mesh_, log));
}

// Each would take the other's checkpoints for its own, and delete them.
TEST_F(RunLockOnRanks, TwoRunsDoNotShareTheFolderThatTheirCheckpointsLeadTo) {
  const fs::path second = folder_.path() / "second";
  if (world_->rank() == 0) {
    fs::create_directory(second);
    fs::create_directory_symlink(run_ / "checkpoints", second / "checkpoints");
  }
  world_->patient_barrier();
  Logger log(1);
  {
    const RunLock first(run_, *mesh_, log);
    std::string said = "nothing";
    try {
      const RunLock other(second, *mesh_, log);
    } catch (const ConfigError& error) {
      said = error.what();
    }
    for (const std::string& other : world_->all_gather_text(said)) EXPECT_EQ(other, said);
    EXPECT_EQ(said, concat("rank 0: run.directory (", second.string(), "): ", (second / "checkpoints").string(), " leads to ",
                           fs::canonical(run_ / "checkpoints").string(),
                           ", which another job uses for its checkpoints: wait for it, or give each run a folder of its own"));
  }
  EXPECT_EQ(names_in(second), std::set<std::string>{"checkpoints"}) << "a job that is refused leaves nothing";
  world_->patient_barrier();
  const RunLock afterwards(second, *mesh_, log);
}

TEST_F(RunLockOnRanks, AJobThatIsRefusedLeavesNothing) {
  std::optional<FolderLock> of_another_job;
  if (world_->rank() == 0) of_another_job.emplace(run_);
  world_->patient_barrier();
  Logger log(1);
  EXPECT_THROW(RunLock(run_, *mesh_, log), ConfigError);
  EXPECT_TRUE(fs::is_empty(run_));
  world_->patient_barrier();
}

// Where the file system has no locks of folders.
TEST_F(RunLockOnRanks, AJobThatIsRefusedByTheFileAloneLeavesNothingElse) {
  std::optional<FileLock> of_another_job;
  if (world_->rank() == 0) of_another_job.emplace(run_ / "lock");
  world_->patient_barrier();
  Logger log(1);
  EXPECT_THROW(RunLock(run_, *mesh_, log), ConfigError);
  EXPECT_EQ(names_in(run_), std::set<std::string>{"lock"});
  world_->patient_barrier();
}

TEST_F(RunLockOnRanks, AFolderThatIsNotThereIsMade) {
  Logger log(1);
  const RunLock lock(run_ / "a/b", *mesh_, log);
  EXPECT_TRUE(fs::exists(run_ / "a/b/lock"));
  EXPECT_TRUE(fs::is_directory(run_ / "a/b/checkpoints"));
  world_->patient_barrier();
}

TEST_F(RunLockOnRanks, WhatCannotBeLockedIsTheSameErrorOnEveryRank) {
  if (world_->rank() == 0) fs::create_directory(run_ / "lock");
  world_->patient_barrier();
  std::string said = "nothing";
  try {
    Logger log(1);
    const RunLock lock(run_, *mesh_, log);
  } catch (const IoError& error) {
    said = error.what();
  }
  for (const std::string& other : world_->all_gather_text(said)) EXPECT_EQ(other, said);
  EXPECT_NE(said.find("cannot lock"), std::string::npos) << said;
  EXPECT_NE(said.find("it is a folder, and must be a file"), std::string::npos) << said;
}

}  // namespace
}  // namespace pimoe
