#include "train/growing_file.h"

#include "base/file_io.h"
#include "base/progress.h"
#include "base/text.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

namespace {
std::atomic<bool> disk_answers = true;
}

/// In place of libc's, so that this program's disk does not answer where a test wants that.
extern "C" ssize_t write(int descriptor, const void* bytes, size_t count) {
  while (!disk_answers && descriptor > STDERR_FILENO) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return syscall(SYS_write, descriptor, bytes, count);
}

namespace pimoe {
namespace {

namespace fs = std::filesystem;

class GrowingFiles : public testing::Test {
 protected:
  GrowingFiles() {
    char name[] = "/tmp/pimoe-growing-XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~GrowingFiles() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST_F(GrowingFiles, ATornLineOfAnEarlierProcessIsEnded) {
  const fs::path path = folder_ / "run/lines";
  fs::create_directory(folder_ / "run");
  write_durably(path, "whole\nhal", 9);
  GrowingFile file(path);
  EXPECT_EQ(file.append("next\n"), "");
  EXPECT_EQ(read_file(path), "whole\nhal\nnext\n");
}

TEST_F(GrowingFiles, WhatIsNoRegularFileKeepsNobodyWaiting) {
  const fs::path path = folder_ / "lines";
  const std::string refused = concat("cannot write ", path.string(), ": it is no regular file");
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  GrowingFile file(path);
  EXPECT_EQ(file.append("first\n"), refused);
  const int reader = ::open(path.c_str(), O_RDONLY | O_NONBLOCK);
  EXPECT_EQ(file.append("second\n"), refused) << "a reader may stop reading";
  ::close(reader);
  fs::remove(path);
  EXPECT_EQ(file.append("third\n"), "");
  EXPECT_EQ(read_file(path), "first\nsecond\nthird\n");
}

TEST_F(GrowingFiles, AFileThatDoesNotAnswerIsNoHangToAWatchdog) {
  const auto is_patient = [] { return read_progress(ProgressSlot::kTraining).patient != 0; };
  EXPECT_FALSE(is_patient());
  disk_answers = false;
  std::thread writer([&] { GrowingFile(folder_ / "lines").append("line\n"); });
  for (int wait = 0; wait < 1000 && !is_patient(); ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(is_patient());
  disk_answers = true;
  writer.join();
  EXPECT_FALSE(is_patient());
}

}  // namespace
}  // namespace pimoe
