#include "train/metrics_repair.h"

#include "base/file_io.h"
#include "base/text.h"
#include "train/metrics_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

namespace pimoe {
namespace {

class MetricsRepair : public testing::Test {
 protected:
  MetricsRepair() : folder_(std::filesystem::temp_directory_path() / concat("pimoe-repair-", getpid())), file_(folder_ / "metrics.jsonl") {
    std::filesystem::create_directories(folder_);
  }
  ~MetricsRepair() override { std::filesystem::remove_all(folder_); }
  std::string damaged(const char* name = "metrics.jsonl.damaged") const { return read_file(folder_ / name); }

  std::filesystem::path folder_;
  std::filesystem::path file_;
};

constexpr const char* kGood = "{\"step\":1,\"loss\":2.0}\n{\"step\":2,\"loss\":1.5}\n";

TEST_F(MetricsRepair, LeavesAGoodFileAndNoFileAlone) {
  EXPECT_EQ(mend_metrics(file_), "");
  replace_file(file_, kGood);
  EXPECT_EQ(mend_metrics(file_), "");
  EXPECT_EQ(read_file(file_), kGood);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "metrics.jsonl.damaged"));
}

TEST_F(MetricsRepair, KeepsWhatCanBeReadAndTheOriginalBesideIt) {
  for (const std::string& garbage :
       {std::string("{\"step\":3,\"lo"), std::string("\0\0\x1b[2J\xff", 7), std::string("{\"step\":\"three\"}"), std::string("[1]"),
        std::string("{\"step\":-1}"), std::string("{}")}) {
    const std::string whole = kGood + garbage;
    replace_file(file_, whole);
    const std::string said = mend_metrics(file_);
    EXPECT_NE(said.find("1 line is no record of a step"), std::string::npos) << said;
    EXPECT_EQ(read_file(file_), kGood);
    EXPECT_EQ(damaged(), whole);
    std::filesystem::remove(folder_ / "metrics.jsonl.damaged");
    MetricsFile file(file_, 1);
    StepRecord record;
    record.step = 2;
    file.append(record);
    EXPECT_EQ(split(read_file(file_), '\n').size(), 3u);
  }
}

TEST_F(MetricsRepair, ARunFromScratchKeepsTheRecordOfOneBefore) {
  EXPECT_EQ(set_metrics_aside(file_), "");
  replace_file(file_, "");
  EXPECT_EQ(set_metrics_aside(file_), "");
  for (const char* name : {"metrics.jsonl.earlier", "metrics.jsonl.earlier-2"}) {
    replace_file(file_, kGood);
    EXPECT_NE(set_metrics_aside(file_).find(name), std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(file_));
    EXPECT_EQ(read_file(folder_ / name), kGood);
  }
}

TEST_F(MetricsRepair, NeverOverwritesAnEarlierOriginal) {
  replace_file(file_, "first");
  mend_metrics(file_);
  replace_file(file_, "second");
  EXPECT_NE(mend_metrics(file_).find("metrics.jsonl.damaged-2"), std::string::npos);
  EXPECT_EQ(damaged(), "first");
  EXPECT_EQ(damaged("metrics.jsonl.damaged-2"), "second");
}

TEST_F(MetricsRepair, PutsAsideWhatIsNoFile) {
  std::filesystem::create_directories(file_);
  EXPECT_NE(mend_metrics(file_).find("could not be read"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(file_));
  EXPECT_TRUE(std::filesystem::is_directory(folder_ / "metrics.jsonl.damaged"));
}

TEST_F(MetricsRepair, PutsAPipeAsideThatWouldKeepItsReaderWaiting) {
  ASSERT_EQ(mkfifo(file_.c_str(), 0600), 0);
  EXPECT_NE(mend_metrics(file_).find("it is no regular file"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_fifo(folder_ / "metrics.jsonl.damaged"));
}

// A limit on file sizes stands for a full disk: what it leaves behind is often such a line.
TEST_F(MetricsRepair, LeavesTheFileWhereTheOriginalCannotBeKept) {
  const std::string whole = concat(kGood, "{\"step\":3,\"lo");
  replace_file(file_, whole);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  void (*const handler)(int) = signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{8, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  const std::string said = mend_metrics(file_);
  MetricsFile(file_, 2);  // cuts without room
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_NE(said.find("could not be mended: cannot write"), std::string::npos) << said;
  EXPECT_EQ(read_file(file_), kGood);
}

}  // namespace
}  // namespace pimoe
