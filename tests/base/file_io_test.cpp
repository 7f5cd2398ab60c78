#include "base/file_io.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <thread>

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// A folder of the test's own, gone after it.
class FileIo : public ::testing::Test {
 protected:
  FileIo() {
    std::string pattern = (fs::temp_directory_path() / "pimoe-file-io-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~FileIo() override { fs::remove_all(folder_); }

  fs::path path(const std::string& name) const { return folder_ / name; }
  size_t file_count() const { return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator())); }

  fs::path folder_;
};

TEST_F(FileIo, WhatTheSystemForgotIsStillOnTheDisk) {
  write_durably(path("a"), "content", 7);
  forget_cached(path("a"));
  EXPECT_EQ(read_file(path("a")), "content");
  EXPECT_THROW(forget_cached(path("missing")), IoError);
}

using MappedFileTest = FileIo;

/// Makes writes beyond `bytes` of a file fail with EFBIG, as a full disk would fail them, as long as it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit tight{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &tight);
    handler_before_ = std::signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_before_);
  }

 private:
  rlimit before_{};
  void (*handler_before_)(int) = nullptr;
};

/// @returns the code of the IoError that `action` throws; the message must name `name`.
int code_of(const std::function<void()>& action, const std::string& name) {
  try {
    action();
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    return error.code();
  }
  ADD_FAILURE() << "no IoError";
  return 0;
}

std::string bytes_of_every_value() {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  return bytes;
}

TEST_F(FileIo, WhatIsWrittenIsRead) {
  for (const std::string& content : {std::string(), std::string("a"), bytes_of_every_value(), std::string(3'000'001, 'x')}) {
    write_durably(path("file"), content.data(), content.size());
    EXPECT_EQ(read_file(path("file")), content);
    const std::vector<std::byte> bytes = read_regular_bytes(path("file"));
    ASSERT_EQ(bytes.size(), content.size());
    EXPECT_TRUE(
        std::equal(bytes.begin(), bytes.end(), content.begin(), [](std::byte a, char b) { return a == static_cast<std::byte>(b); }));
  }
}

TEST_F(FileIo, WritingAgainLeavesNothingOfALongerFile) {
  write_durably(path("file"), "longer", 6);
  write_durably(path("file"), "short", 5);
  EXPECT_EQ(read_file(path("file")), "short");
}

TEST_F(FileIo, ReadingTakesFilesUpToTheLimit) {
  write_durably(path("file"), "12345", 5);
  EXPECT_EQ(read_file(path("file"), 5), "12345");
  EXPECT_EQ(code_of([&] { read_file(path("file"), 4); }, "limit of 4 bytes"), EFBIG);
  EXPECT_EQ(code_of([&] { read_regular_bytes(path("file"), 4); }, path("file").string()), EFBIG);
}

TEST_F(FileIo, ReadsWhatHasNoSize) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  const std::string content(100'000, 'p');
  std::thread writer([&] { std::ofstream(path("pipe")) << content; });
  EXPECT_EQ(read_file(path("pipe")), content);
  writer.join();
  EXPECT_FALSE(read_file("/proc/self/status").empty());
  EXPECT_EQ(code_of([] { read_file("/proc/self/status", 10); }, "limit of 10 bytes"), EFBIG);
}

TEST_F(FileIo, WhatMustBeAFileIsNotWaitedForNorReplacedWhereItIsNone) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(code_of([&] { read_regular_file(path("pipe")); }, path("pipe").string() + ": it is no regular file"), ENXIO);
  EXPECT_EQ(code_of([&] { read_regular_bytes("/dev/null"); }, "/dev/null"), ENXIO);
  EXPECT_EQ(code_of([&] { read_regular_file(folder_); }, folder_.string()), EISDIR);
  EXPECT_EQ(code_of([&] { MappedFile map(path("pipe")); }, path("pipe").string()), ENXIO);
  EXPECT_EQ(code_of([&] { replace_file(path("pipe"), "x"); }, path("pipe").string()), EEXIST);
  EXPECT_EQ(code_of([&] { write_durably(path("pipe"), "x", 1); }, path("pipe").string() + ": it is no regular file"), ENXIO);
  EXPECT_EQ(code_of([&] { append_durably(path("pipe"), "x"); }, path("pipe").string() + ": it is no regular file"), ENXIO);
  EXPECT_EQ(code_of([&] { FileLock lock(path("pipe")); }, path("pipe").string() + ": it is no regular file"), ENXIO);
  EXPECT_EQ(file_count(), 1U);
  EXPECT_TRUE(fs::is_fifo(path("pipe")));
  fs::create_symlink("/dev/null", path("device"));
  EXPECT_EQ(code_of([&] { replace_file(path("device"), "x"); }, "no regular file"), EEXIST);
  write_durably(path("file"), "content", 7);
  EXPECT_EQ(read_regular_file(path("file")), "content");
  EXPECT_TRUE(is_there(path("file")));
  EXPECT_FALSE(is_there(path("file/inside")));
  EXPECT_FALSE(is_there(path("absent")));
  EXPECT_EQ(code_of([&] { is_there(path(std::string(300, 'n'))); }, "cannot look at"), ENAMETOOLONG);
}

TEST_F(FileIo, ErrorsNameThePathAndTheReason) {
  EXPECT_EQ(code_of([&] { read_file(path("absent")); }, path("absent").string() + ": No such file or directory"), ENOENT);
  EXPECT_EQ(code_of([&] { read_file(folder_); }, folder_.string()), EISDIR);
  EXPECT_EQ(code_of([&] { write_durably(path("absent/file"), "x", 1); }, "absent/file"), ENOENT);
  EXPECT_EQ(code_of([&] { replace_file(path("absent/file"), "x"); }, "absent/file"), ENOENT);
  EXPECT_EQ(code_of([&] { rename_durably(path("absent"), path("other")); }, "absent"), ENOENT);
  EXPECT_EQ(code_of([&] { sync_folder(path("absent")); }, "absent"), ENOENT);
  EXPECT_EQ(code_of([&] { MappedFile file(path("absent")); }, "absent"), ENOENT);
}

TEST_F(FileIo, AWriteThatDoesNotFitIsAnError) {
  const std::string content(10'000, 'x');
  const FileSizeLimit limit(4096);
  EXPECT_EQ(code_of([&] { write_durably(path("file"), content.data(), content.size()); }, path("file").string()), EFBIG);
}

TEST_F(FileIo, FailedReplacementLeavesTheOldContentAndNoOtherFile) {
  replace_file(path("file"), "old");
  {
    const FileSizeLimit limit(4096);
    EXPECT_EQ(code_of([&] { replace_file(path("file"), std::string(10'000, 'x')); }, path("file").string()), EFBIG);
  }
  EXPECT_EQ(read_file(path("file")), "old");
  EXPECT_EQ(file_count(), 1u);
}

TEST_F(FileIo, ReplacementLeavesNoOtherFile) {
  replace_file(path("file"), "one");
  replace_file(path("file"), "two");
  EXPECT_EQ(read_file(path("file")), "two");
  EXPECT_EQ(file_count(), 1u);
}

TEST_F(FileIo, WhoHasTheOldFileOpenReadsItToItsEnd) {
  replace_file(path("file"), "old content");
  std::ifstream reader(path("file"));
  replace_file(path("file"), "new");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(reader), {}), "old content");
}

TEST_F(FileIo, ReaderSeesOneOfTheContentsAndNeverAPart) {
  const std::string first(50'000, 'a');
  const std::string second(60'000, 'b');
  replace_file(path("file"), first);
  std::atomic<int> writing = 2;
  std::vector<std::thread> writers;
  for (const std::string& content : {first, second}) {
    writers.emplace_back([this, content, &writing] {
      for (int i = 0; i < 30; ++i) replace_file(path("file"), content);
      --writing;
    });
  }
  for (int i = 0; writing > 0 || i < 10; ++i) {
    const std::string seen = read_file(path("file"));
    EXPECT_TRUE(seen == first || seen == second) << "read " << i << " saw " << seen.size() << " bytes";
  }
  for (std::thread& writer : writers) writer.join();
}

TEST_F(FileIo, RenameReplacesAFileAndMovesBetweenFolders) {
  fs::create_directory(path("below"));
  write_durably(path("new"), "new", 3);
  write_durably(path("below/old"), "old", 3);
  rename_durably(path("new"), path("below/old"));
  EXPECT_EQ(read_file(path("below/old")), "new");
  EXPECT_FALSE(fs::exists(path("new")));
}

TEST_F(FileIo, RenameCommitsAWholeFolder) {
  fs::create_directory(path("step.partial"));
  write_durably(path("step.partial/part"), "x", 1);
  rename_durably(path("step.partial"), path("step"));
  EXPECT_EQ(read_file(path("step/part")), "x");
}

TEST_F(FileIo, PathsWithoutAFolderAreInTheCurrentOne) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  replace_file("plain", "x");
  EXPECT_EQ(read_file("plain"), "x");
  fs::current_path(before);
}

TEST_F(FileIo, ALockKnowsWhetherItsPathLeadsToIt) {
  fs::create_directory(path("run"));
  const FileLock lock(path("run") / "lock");
  EXPECT_TRUE(lock.is_in_place());
  fs::rename(path("run"), path("away"));
  EXPECT_FALSE(lock.is_in_place());
  fs::create_directory(path("run"));
  {
    const FileLock second(path("run") / "lock");  // nothing keeps it out
    EXPECT_TRUE(second.is_in_place());
    EXPECT_FALSE(lock.is_in_place());
  }
  fs::remove_all(path("run"));
  fs::rename(path("away"), path("run"));
  EXPECT_TRUE(lock.is_in_place());
  fs::remove(path("run") / "lock");
  EXPECT_FALSE(lock.is_in_place());
  fs::remove(path("run"));
  write_durably(path("run"), "", 0);
  EXPECT_FALSE(lock.is_in_place()) << "a file has its folder's name";
}

TEST_F(FileIo, AFoldersLockOutlivesWhatIsRemovedFromItAndKnowsItsFolder) {
  fs::create_directory(path("run"));
  const FolderLock lock(path("run"));
  write_durably(path("run") / "lock", "", 0);
  fs::remove(path("run") / "lock");
  EXPECT_TRUE(lock.is_in_place());
  EXPECT_EQ(code_of([&] { const FolderLock second(path("run")); }, "another process holds its lock"), EWOULDBLOCK);
  fs::rename(path("run"), path("away"));
  fs::create_directory(path("run"));
  EXPECT_FALSE(lock.is_in_place());
  const FolderLock other(path("run"));
  EXPECT_TRUE(other.is_in_place());
}

TEST_F(FileIo, AFolderInALocksPlaceIsSaid) {
  fs::create_directory(path("lock"));
  EXPECT_EQ(code_of([&] { const FileLock lock(path("lock")); }, concat(path("lock").string(), ": it is a folder, and must be a file")),
            EISDIR);
}

TEST_F(MappedFileTest, ShowsTheFilesBytes) {
  const std::string content = bytes_of_every_value();
  write_durably(path("file"), content.data(), content.size());
  const MappedFile file(path("file"));
  ASSERT_EQ(file.size(), content.size());
  EXPECT_EQ(std::memcmp(file.data(), content.data(), content.size()), 0);
}

TEST_F(MappedFileTest, EmptyFileIsANullPointer) {
  write_durably(path("file"), "", 0);
  const MappedFile file(path("file"));
  EXPECT_EQ(file.data(), nullptr);
  EXPECT_EQ(file.size(), 0u);
}

TEST_F(MappedFileTest, MovingHandsTheMapOver) {
  write_durably(path("one"), "1", 1);
  write_durably(path("two"), "22", 2);
  MappedFile one(path("one"));
  MappedFile moved(std::move(one));
  EXPECT_EQ(moved.size(), 1u);
  EXPECT_EQ(one.data(), nullptr);
  EXPECT_EQ(one.size(), 0u);
  moved = MappedFile(path("two"));
  ASSERT_EQ(moved.size(), 2u);
  EXPECT_EQ(static_cast<char>(moved.data()[1]), '2');
}

}  // namespace
}  // namespace pimoe
