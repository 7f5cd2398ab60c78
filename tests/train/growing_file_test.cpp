#include "train/growing_file.h"

#include "base/file_io.h"
#include "base/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

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

// A pipe that nobody reads stands for a disk that does not answer: its opening waits.
TEST_F(GrowingFiles, AFileThatDoesNotAnswerIsNoHangToAWatchdog) {
  const fs::path path = folder_ / "pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const auto is_patient = [] { return read_progress(ProgressSlot::kTraining).patient != 0; };
  EXPECT_FALSE(is_patient());
  std::thread writer([&] { GrowingFile(path).append("line\n"); });
  for (int wait = 0; wait < 1000 && !is_patient(); ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(is_patient());
  const int reader = ::open(path.c_str(), O_RDONLY);
  writer.join();
  ::close(reader);
  EXPECT_FALSE(is_patient());
}

}  // namespace
}  // namespace pimoe
