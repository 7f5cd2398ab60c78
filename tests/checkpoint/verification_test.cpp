#include "checkpoint/verification.h"

#include "base/errors.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/tiny_checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// A tiny checkpoint in two files.
class Verification : public ::testing::Test {
 protected:
  void SetUp() override {
    save_snapshot(checkpoint_, tiny_snapshot(100), /*part_bytes=*/100);
    for (const auto& entry : fs::directory_iterator(checkpoint_)) files_.push_back(entry.path());
    ASSERT_GE(files_.size(), 3U);
  }

  TemporaryFolder folder_;
  fs::path checkpoint_ = folder_.path() / "step-00000100";
  std::vector<fs::path> files_;
};

TEST_F(Verification, FindsNothingInAnUntouchedCheckpoint) {
  EXPECT_EQ(verify_checkpoint(checkpoint_, true), "");
  EXPECT_EQ(verify_checkpoint(checkpoint_, false), "");
}

TEST_F(Verification, FindsEverySingleChangedByteOfEveryFile) {  // changed in three ways
  for (const fs::path& path : files_) {
    const std::string original = read_text(path);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    for (size_t at = 0; at < original.size(); ++at) {
      for (const int changed : {original[at] ^ (1 << at % 8), ~original[at], original[at] + 1}) {
        const char byte = static_cast<char>(changed);
        file.seekp(static_cast<std::streamoff>(at)).write(&byte, 1).flush();
        EXPECT_NE(verify_checkpoint(checkpoint_, true), "") << path << ", byte " << at << ": " << changed;
      }
      file.seekp(static_cast<std::streamoff>(at)).write(&original[at], 1).flush();
    }
  }
  EXPECT_EQ(verify_checkpoint(checkpoint_, true), "");
}

TEST_F(Verification, FindsEveryTruncationWithoutReadingTheBytes) {
  for (const fs::path& path : files_) {
    const std::string original = read_text(path);
    for (size_t length = 0; length < original.size(); length += 1 + original.size() / 100) {
      fs::resize_file(path, length);
      EXPECT_NE(verify_checkpoint(checkpoint_, false), "") << path << ", first " << length << " bytes";
      write_text(path, original);
    }
    write_text(path, original + " ");
    EXPECT_NE(verify_checkpoint(checkpoint_, false), "") << path << ", one byte more";
    write_text(path, original);
  }
  EXPECT_EQ(verify_checkpoint(checkpoint_, true), "");
}

TEST_F(Verification, NamesTheFileItsTensorsAndTheReason) {
  const fs::path shard = checkpoint_ / "rank-0000-of-0001-part-000.h5";
  const std::string original = read_text(shard);
  fs::resize_file(shard, 17);
  const std::string trouble = verify_checkpoint(checkpoint_, false);
  EXPECT_EQ(trouble.find("rank-0000-of-0001-part-000.h5 has 17 bytes, the manifest says "), 0U) << trouble;
  EXPECT_NE(trouble.find("master/layers.0.norm"), std::string::npos) << trouble;
  fs::remove(shard);
  EXPECT_NE(verify_checkpoint(checkpoint_, false).find("No such file"), std::string::npos);
  write_text(shard, original);
}

TEST_F(Verification, FindsEachMissingFile) {
  for (const fs::path& path : files_) {
    fs::rename(path, folder_.path() / "away");
    EXPECT_NE(verify_checkpoint(checkpoint_, false), "") << path;
    fs::rename(folder_.path() / "away", path);
  }
}

/// What stands in a file's place is damage for tools and for training alike; what one may not look at is not.
TEST_F(Verification, OneErrorForEveryReaderOfAShard) {
  const StoredFile file = read_manifest(checkpoint_).files.front();
  const fs::path shard = checkpoint_ / file.name;
  const std::string original = read_text(shard);
  fs::remove(shard);
  fs::create_symlink(shard, shard);
  EXPECT_NE(file_trouble(checkpoint_, file, true), "") << "a circle of links";
  EXPECT_THROW(ShardFile(checkpoint_, file), CheckpointError);
  fs::remove(shard);
  ASSERT_EQ(mkfifo(shard.c_str(), 0600), 0);
  EXPECT_NE(file_trouble(checkpoint_, file, true).find("no regular file"), std::string::npos);
  EXPECT_THROW(ShardFile(checkpoint_, file), CheckpointError);
  fs::remove(shard);
  write_text(shard, original);
  StoredFile unseen = file;
  unseen.name = std::string(300, 'n');  // as a folder without permission, the system says no
  EXPECT_THROW(file_trouble(checkpoint_, unseen, true), IoError);
  EXPECT_THROW(ShardFile(checkpoint_, unseen), IoError);
}

TEST_F(Verification, APipeInTheManifestsPlaceKeepsNobodyWaiting) {
  const std::string original = read_text(checkpoint_ / "manifest.json");
  fs::remove(checkpoint_ / "manifest.json");
  ASSERT_EQ(mkfifo((checkpoint_ / "manifest.json").c_str(), 0600), 0);
  EXPECT_NE(verify_checkpoint(checkpoint_, true).find("no regular file"), std::string::npos);
  fs::remove(checkpoint_ / "manifest.json");
  write_text(checkpoint_ / "manifest.json", original);
}

TEST_F(Verification, FindsTwoFilesThatTradedPlaces) {
  const fs::path first = checkpoint_ / "rank-0000-of-0001-part-000.h5";
  const fs::path second = checkpoint_ / "rank-0000-of-0001-part-001.h5";
  fs::rename(first, folder_.path() / "away");
  fs::rename(second, first);
  fs::rename(folder_.path() / "away", second);
  EXPECT_NE(verify_checkpoint(checkpoint_, true), "");
}

TEST_F(Verification, FindsAFileOfAnotherSaveOfTheSameStep) {
  const fs::path other = folder_.path() / "step-00000200";
  save_snapshot(other, tiny_snapshot(100, /*salt=*/1), 100);
  const fs::path shard = checkpoint_ / "rank-0000-of-0001-part-000.h5";
  fs::copy_file(other / shard.filename(), shard, fs::copy_options::overwrite_existing);
  EXPECT_EQ(verify_checkpoint(checkpoint_, false), "") << "the same sizes";
  EXPECT_NE(verify_checkpoint(checkpoint_, true), "");
}

TEST_F(Verification, AListLeavesOutWhatIsGoneAndSaysWhatIsDamaged) {
  EXPECT_EQ(inspect_checkpoint(checkpoint_, /*digests=*/true)->manifest.step, 100);
  fs::resize_file(checkpoint_ / "manifest.json", 10);
  EXPECT_NE(inspect_checkpoint(checkpoint_, true)->trouble, "");
  fs::remove_all(checkpoint_);
  EXPECT_FALSE(inspect_checkpoint(checkpoint_, true).has_value());
}

// Reading a process' memory where it has none is an I/O error.
TEST_F(Verification, AnIoErrorIsNoDamage) {
  fs::remove(checkpoint_ / "manifest.json");
  fs::create_symlink("/proc/self/mem", checkpoint_ / "manifest.json");
  try {
    verify_checkpoint(checkpoint_, /*full=*/true);
    FAIL() << "must throw";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("manifest.json: Input/output error"), std::string::npos) << error.what();
  }
}

TEST_F(Verification, IgnoresFilesThatTheManifestDoesNotList) {
  write_text(checkpoint_ / "notes.txt", "best run so far");
  EXPECT_EQ(verify_checkpoint(checkpoint_, true), "");
}

TEST_F(Verification, FindsAManifestThatContradictsItsFiles) {
  const std::string text = read_text(checkpoint_ / "manifest.json");
  const auto trouble_with = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    const size_t place = changed.find(from);
    EXPECT_NE(place, std::string::npos) << from;
    write_text(checkpoint_ / "manifest.json", signed_again(changed.replace(place, from.size(), to)));
    return verify_checkpoint(checkpoint_, true);
  };
  EXPECT_NE(trouble_with("\"name\":\"calls\"", "\"name\":\"call\""), "");
  EXPECT_NE(trouble_with("\"type\":\"int64\"", "\"type\":\"float64\"").find("state/calls"), std::string::npos);
  EXPECT_NE(trouble_with("\"range\":[0,7]", "\"range\":[0,6]").find("master/layers.0.experts: no piece holds elements [6, 7)"),
            std::string::npos);
  EXPECT_NE(trouble_with("\"range\":[7,13]", "\"range\":[6,12]").find("master/layers.0.experts"), std::string::npos);
  EXPECT_EQ(trouble_with("\"step\"", "\"step\""), "");
}

TEST_F(Verification, SaysWhatIsMissingOfAFolderThatIsNoCheckpoint) {
  fs::remove(checkpoint_ / "manifest.json");
  EXPECT_NE(verify_checkpoint(checkpoint_, true).find("manifest.json"), std::string::npos);
  EXPECT_NE(verify_checkpoint(folder_.path() / "nothing", true), "");
}

}  // namespace
}  // namespace pimoe
