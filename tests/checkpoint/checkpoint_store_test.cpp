#include "checkpoint/checkpoint_store.h"

#include "base/errors.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/tiny_checkpoint.h"
#include "checkpoint/verification.h"

#include <gtest/gtest.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

TEST(FindCheckpoint, TakesAStepFolderOrTheNewestGoodOneOfARun) {
  TemporaryFolder folder;
  const fs::path checkpoints = folder.path() / "checkpoints";
  for (const int64_t step : {100, 200, 300}) save_snapshot(checkpoints / step_name(step), tiny_snapshot(step));
  EXPECT_EQ(find_checkpoint(checkpoints / "step-00000100"), checkpoints / "step-00000100");
  EXPECT_EQ(find_checkpoint(folder.path()), checkpoints / "step-00000300");
  EXPECT_EQ(find_checkpoint(checkpoints), checkpoints / "step-00000300");

  const fs::path shard = checkpoints / "step-00000300" / "rank-0000-of-0001-part-000.h5";
  std::string bytes = read_text(shard);
  bytes[bytes.size() / 2] ^= 1;
  write_text(shard, bytes);
  EXPECT_EQ(find_checkpoint(folder.path()), checkpoints / "step-00000200");
}

TEST(FindCheckpoint, SaysWhatItDidNotFind) {
  TemporaryFolder folder;
  EXPECT_THROW(find_checkpoint(folder.path()), CheckpointError);
  EXPECT_THROW(find_checkpoint(folder.path() / "nothing"), CheckpointError);
  fs::create_directory(folder.path() / "step-00000100");
  EXPECT_THROW(find_checkpoint(folder.path() / "step-00000100"), CheckpointError);
}

/// Saves steps 1, 2, 3, ... as a run would, and re-saves each once, until it is killed.
[[noreturn]] void save_until_killed(const fs::path& folder) {
  for (int64_t step = 1;; ++step) {
    for (const int64_t salt : {step, step + 1}) {
      const fs::path temporary = folder / "step-00000000.tmp";
      fs::remove_all(temporary);
      save_snapshot(temporary, tiny_snapshot(step, salt), 60);
      commit_folder(temporary, folder / step_name(step));
    }
    prune_steps(folder, step, 2);
  }
}

TEST(Kill, LosesNoCheckpointWhereverItHits) {
  constexpr unsigned kSeed = 11;
  std::mt19937 random(kSeed);
  TemporaryFolder folder;
  save_snapshot(folder.path() / step_name(0), tiny_snapshot(0));
  for (int round = 0; round < 60; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) save_until_killed(folder.path());
    ::usleep(2000 + random() % 60000);
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the saving process ended by itself";
    sweep_leftovers(folder.path());
    const auto steps = list_steps(folder.path());
    ASSERT_FALSE(steps.empty()) << "seed " << kSeed << ", round " << round;
    for (const StepFolder& step : steps) {
      EXPECT_EQ(verify_checkpoint(step.path, true), "") << "seed " << kSeed << ", round " << round << ", " << step.path;
    }
  }
}

}  // namespace
}  // namespace pimoe
