#include "checkpoint/local_save.h"

#include "base/errors.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/tiny_checkpoint.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

TEST(WriteCheckpoint, GivesTheSameBytesForTheSameState) {
  TemporaryFolder folder;
  save_snapshot(folder.path() / "a", tiny_snapshot(100), 60);
  save_snapshot(folder.path() / "b", tiny_snapshot(100), 60);
  for (const auto& entry : fs::directory_iterator(folder.path() / "a")) {
    EXPECT_EQ(read_text(entry.path()), read_text(folder.path() / "b" / entry.path().filename())) << entry.path();
  }
}

TEST(WriteCheckpoint, RefusesAStateThatDoesNotCoverItsTensors) {
  TemporaryFolder folder;
  Snapshot snapshot = tiny_snapshot(100);
  snapshot.pieces.erase(snapshot.pieces.begin() + 2);
  try {
    save_snapshot(folder.path() / "a", snapshot);
    FAIL() << "saved";
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find("master/layers.0.experts: no piece holds elements [7, 12)"), std::string::npos)
        << error.what();
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(WriteCheckpoint, NeverReplacesAFolder) {
  TemporaryFolder folder;
  save_snapshot(folder.path() / "a", tiny_snapshot(100));
  EXPECT_THROW(save_snapshot(folder.path() / "a", tiny_snapshot(200)), CheckpointError);
  EXPECT_EQ(read_manifest(folder.path() / "a").step, 100);
}

TEST(WriteCheckpoint, LeavesNothingWhereItsFilesCannotBeMade) {
  TemporaryFolder folder;
  const auto fail = [](ShardWriter& writer) {
    writer.add(shard_name(0, 1, 0), pieces_to_store(tiny_snapshot(100).pieces));
    throw DataError("no more pieces");
  };
  try {
    write_checkpoint(folder.path() / step_name(100), Manifest{}, fail);
    FAIL() << "saved";
  } catch (const SaveError& error) {
    EXPECT_EQ(error.what(), concat("checkpoint ", (folder.path() / step_name(100)).string(), " was not written: no more pieces"));
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));

  EXPECT_THROW(write_checkpoint(folder.path() / "run/checkpoints" / step_name(100), Manifest{}, fail), SaveError);
  EXPECT_TRUE(fs::is_empty(folder.path())) << "folders that it made for the checkpoint";
  fs::create_directory(folder.path() / "run");
  EXPECT_THROW(write_checkpoint(folder.path() / "run/checkpoints" / step_name(100), Manifest{}, fail), SaveError);
  EXPECT_TRUE(fs::exists(folder.path() / "run")) << "one that was there before stays";
  EXPECT_TRUE(fs::is_empty(folder.path() / "run"));
}

TEST(WriteCheckpoint, TakesThePlaceOfWhatAKilledSaveLeft) {
  TemporaryFolder folder;
  const fs::path checkpoint = folder.path() / step_name(100);
  const fs::path temporary = fs::path(checkpoint) += ".tmp";
  fs::create_directories(temporary);
  write_text(temporary / "rank-0000-of-0001-part-009.h5", "half of it");
  save_snapshot(checkpoint, tiny_snapshot(100));
  EXPECT_FALSE(fs::exists(temporary));
  EXPECT_FALSE(fs::exists(checkpoint / "rank-0000-of-0001-part-009.h5"));
}

}  // namespace
}  // namespace pimoe
