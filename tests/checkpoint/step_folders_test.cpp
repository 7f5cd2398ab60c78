#include "checkpoint/step_folders.h"

#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/tiny_checkpoint.h"
#include "checkpoint/verification.h"
#include "support/without_privileges.h"

#include <gtest/gtest.h>

#include <set>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

class StepFolders : public ::testing::Test {
 protected:
  fs::path save(const std::string& name, int64_t salt = 0) {
    save_snapshot(path(name), tiny_snapshot(std::stoll(name.substr(std::string("step-").size())), salt));
    return path(name);
  }
  fs::path path(const std::string& name) const { return folder_.path() / name; }
  std::set<std::string> names() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path())) names.insert(entry.path().filename().string());
    return names;
  }
  std::string digest(const std::string& name) const { return read_text(path(name) / "manifest.json"); }

  TemporaryFolder folder_;
};
using Names = std::set<std::string>;

TEST(StepName, IsReadBackAndNothingElseIs) {
  EXPECT_EQ(step_name(100), "step-00000100");
  EXPECT_EQ(step_name(1234567890), "step-1234567890");
  for (const int64_t step : {int64_t{0}, int64_t{100}, int64_t{99999999}, int64_t{1234567890}}) EXPECT_EQ(step_of(step_name(step)), step);
  for (const char* name : {"", "step-", "step-100", "step-00000100.tmp", "step-0000010x", "step--0000100", "step-000000100",
                           "Step-00000100", "step-99999999999999999999"}) {
    EXPECT_EQ(step_of(name), std::nullopt) << name;
  }
}

TEST_F(StepFolders, AreListedOldestFirst) {
  for (const char* name : {"step-1234567890", "step-00000200", "step-00000100", "step-00000150.tmp", "step-00000150.bad", "notes"})
    fs::create_directory(path(name));
  std::vector<int64_t> steps;
  for (const StepFolder& step : list_steps(folder_.path())) steps.push_back(step.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{100, 200, 1234567890}));
  EXPECT_TRUE(list_steps(path("nothing")).empty());
  EXPECT_EQ(newest_step(folder_.path()), 1234567890);
  EXPECT_EQ(newest_step(path("nothing")), std::nullopt) << "taken away since a checkpoint was saved there";
}

TEST_F(StepFolders, SweepRemovesUnfinishedSavesAndNothingElse) {
  save("step-00000100");
  fs::create_directory(path("step-00000200.tmp"));
  write_text(path("step-00000200.tmp") / "rank-0000-of-0001-part-000.h5", "half");
  fs::create_directory(path("step-00000050.bad"));
  fs::create_directory(path("mine.tmp"));
  EXPECT_EQ(sweep_leftovers(folder_.path()).done.size(), 1U);
  EXPECT_EQ(names(), (Names{"step-00000100", "step-00000050.bad", "mine.tmp"}));
}

/// A folder from which its owner may take nothing away.
class Closed {
 public:
  explicit Closed(fs::path folder) : folder_(std::move(folder)) { fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec); }
  ~Closed() { fs::permissions(folder_, fs::perms::owner_all); }

 private:
  fs::path folder_;
};

TEST_F(StepFolders, SweepNamesWhatItCannotRemoveAndGoesOn) {
  for (const char* name : {"step-00000100.tmp", "step-00000200.old", "step-00000300.tmp", "step-00000400.tmp-2"}) {
    fs::create_directory(path(name));
    write_text(path(name) / "rank-0000-of-0001-part-000.h5", "half");
  }
  const WithoutPrivileges user(folder_.path());
  const Closed first(path("step-00000100.tmp"));
  const Closed second(path("step-00000200.old"));
  const FolderWork swept = sweep_leftovers(folder_.path());
  EXPECT_EQ(swept.done.size(), 2U);
  ASSERT_EQ(swept.troubles.size(), 2U);
  EXPECT_EQ(swept.troubles.at(path("step-00000100.tmp")),
            concat("cannot remove ", path("step-00000100.tmp").string(), ": Permission denied"));
  EXPECT_EQ(names(), (Names{"step-00000100.tmp", "step-00000200.old"}));
}

TEST_F(StepFolders, ASaveTakesAnotherNameWhereALeftoverOfItsStepStays) {
  save("step-00000100", /*salt=*/1);
  save("step-00000100.old");
  save("step-00000100.tmp", /*salt=*/2);
  const WithoutPrivileges user(folder_.path());
  const Closed old(path("step-00000100.old"));
  const Closed left(path("step-00000100.tmp"));
  const fs::path temporary = make_temporary(path("step-00000100"));
  EXPECT_EQ(temporary, path("step-00000100.tmp-2"));
  EXPECT_TRUE(fs::is_empty(temporary));
  commit_folder(temporary, path("step-00000100"));
  EXPECT_EQ(names(), (Names{"step-00000100", "step-00000100.old", "step-00000100.tmp"}));
  EXPECT_TRUE(fs::is_empty(path("step-00000100"))) << "the new one";
}

TEST_F(StepFolders, PruneGoesOnPastWhatItCannotRemove) {
  for (const char* name : {"step-00000100", "step-00000200", "step-00000300", "step-00000400"}) save(name);
  const WithoutPrivileges user(folder_.path());
  fs::permissions(path("step-00000200"), fs::perms::owner_read | fs::perms::owner_exec);
  const FolderWork pruned = prune_steps(folder_.path(), 400, 2);
  EXPECT_EQ(pruned.done, std::vector<std::string>{concat("deleted ", path("step-00000100").string())});
  EXPECT_EQ(pruned.troubles.size(), 1U);
  EXPECT_EQ(names(), (Names{"step-00000200.old", "step-00000300", "step-00000400"})) << "out of the way, and tried again at the next start";
  EXPECT_TRUE(prune_steps(folder_.path(), 400, 2).troubles.empty()) << "said once";
  fs::permissions(path("step-00000200.old"), fs::perms::owner_all);
}

TEST_F(StepFolders, SweepMovesBackACheckpointWhoseReplacementWasKilled) {
  save("step-00000100");
  const std::string before = digest("step-00000100");
  fs::rename(path("step-00000100"), path("step-00000100.old"));
  fs::create_directory(path("step-00000100.tmp"));
  sweep_leftovers(folder_.path());
  EXPECT_EQ(names(), (Names{"step-00000100"}));
  EXPECT_EQ(digest("step-00000100"), before);
}

TEST_F(StepFolders, SweepFinishesADeletionAndKeepsTheReplacement) {
  save("step-00000100");
  const std::string before = digest("step-00000100");
  save("step-00000100.old", /*salt=*/1);
  save("step-00000050.old");
  fs::remove(path("step-00000050.old") / "manifest.json");
  sweep_leftovers(folder_.path());
  EXPECT_EQ(names(), (Names{"step-00000100"}));
  EXPECT_EQ(digest("step-00000100"), before);
}

TEST_F(StepFolders, CommitReplacesACheckpointOfTheSameStep) {
  save("step-00000100");
  save("step-00000100.tmp", /*salt=*/1);
  const std::string wanted = digest("step-00000100.tmp");
  commit_folder(path("step-00000100.tmp"), path("step-00000100"));
  EXPECT_EQ(names(), (Names{"step-00000100"}));
  EXPECT_EQ(digest("step-00000100"), wanted);
}

TEST_F(StepFolders, CommitThatCannotLeavesTheOldOneInPlace) {
  save("step-00000100");
  EXPECT_THROW(commit_folder(path("step-00000100.tmp"), path("step-00000100")), IoError);  // there is no such folder
  EXPECT_EQ(names(), (Names{"step-00000100"}));
}

TEST_F(StepFolders, SetAsideKeepsTheReasonAndEarlierOnes) {
  for (const char* expected : {"step-00000100.bad", "step-00000100.bad-2", "step-00000100.bad-3"}) {
    save("step-00000100");
    const SetAside aside = set_aside(path("step-00000100"), "for a reason");
    EXPECT_EQ(aside.path, path(expected));
    EXPECT_EQ(aside.trouble, "");
    EXPECT_EQ(read_text(path(expected) / "reason.txt"), "for a reason\n");
  }
  fs::create_directory(path("mine.bad"));
  EXPECT_EQ(count_set_aside(folder_.path()), 3);
}

TEST_F(StepFolders, SetAsideSaysWhereTheReasonAloneCouldNotBeWritten) {
  save("step-00000100");
  fs::create_directory(path("step-00000100") / "reason.txt");
  const SetAside aside = set_aside(path("step-00000100"), "for a reason");
  EXPECT_EQ(aside.path, path("step-00000100.bad"));
  EXPECT_NE(aside.trouble.find("reason.txt"), std::string::npos) << aside.trouble;
  EXPECT_EQ(names(), (Names{"step-00000100.bad"}));
  EXPECT_THROW(set_aside(path("step-00000100"), "for a reason"), IoError) << "there is none";
}

TEST_F(StepFolders, PruneKeepsTheNewestGoodOnes) {
  for (const char* name : {"step-00000100", "step-00000200", "step-00000300", "step-00000400"}) save(name);
  fs::resize_file(path("step-00000300") / "manifest.json", 10);  // damaged: not counted, not touched
  EXPECT_EQ(prune_steps(folder_.path(), 400, 2).done, std::vector<std::string>{concat("deleted ", path("step-00000100").string())});
  EXPECT_EQ(names(), (Names{"step-00000200", "step-00000300", "step-00000400"}));
}

TEST_F(StepFolders, OfALinkTheLinkAloneIsRemovedAndSetAside) {
  TemporaryFolder archive;
  const auto archived = [&](const char* name) {
    save(name);
    fs::rename(path(name), archive.path() / name);
    return archive.path() / name;
  };
  fs::create_directory_symlink(archived("step-00000100"), path("step-00000100"));
  fs::create_directory_symlink(archived("step-00000200"), path("step-00000900.tmp"));
  fs::create_directory_symlink(archived("step-00000300"), path("step-00000300"));
  save("step-00000400");
  save("step-00000500");
  sweep_leftovers(folder_.path());
  set_aside(path("step-00000300"), "for a reason");
  EXPECT_EQ(prune_steps(folder_.path(), 500, 2).done, std::vector<std::string>{concat("deleted ", path("step-00000100").string())});
  EXPECT_EQ(names(), (Names{"step-00000300.bad", "step-00000400", "step-00000500"}));
  for (const char* name : {"step-00000100", "step-00000200", "step-00000300"}) {
    EXPECT_TRUE(verify_checkpoint(archive.path() / name, /*full=*/true).empty()) << name;
    EXPECT_FALSE(fs::exists(archive.path() / name / "reason.txt"));
  }
}

TEST_F(StepFolders, ARenamedCheckpointIsDamaged) {
  save("step-00000100");
  EXPECT_EQ(verify_checkpoint(path("step-00000100"), /*full=*/true), "");
  fs::rename(path("step-00000100"), path("step-00000200"));
  for (const char* name : {"step-00000200", "step-00000200/"}) {
    const std::string trouble = verify_checkpoint(path(name), /*full=*/false);
    EXPECT_NE(trouble.find("renamed from step-00000100"), std::string::npos) << trouble;
  }
}

TEST_F(StepFolders, PruneNeverTakesTheOneJustSavedNorLaterSteps) {
  for (const char* name : {"step-00000100", "step-00000200", "step-00000300", "step-00000400", "step-00000500"}) save(name);
  prune_steps(folder_.path(), 300, 2);
  EXPECT_EQ(names(), (Names{"step-00000200", "step-00000300", "step-00000400", "step-00000500"}));
}

}  // namespace
}  // namespace pimoe
