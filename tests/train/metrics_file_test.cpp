#include "train/metrics_file.h"

#include "base/file_io.h"
#include "base/text.h"
#include "support/temporary_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pimoe {
namespace {

class MetricsFileTest : public testing::Test {
 protected:
  static StepRecord record(int64_t step) {
    StepRecord made;
    made.step = step;
    made.loss = 0.5;
    return made;
  }
  std::filesystem::path aside() const { return path_.parent_path() / "metrics.rolled_back.jsonl"; }
  std::vector<int64_t> steps() const { return steps(path_); }
  static std::vector<int64_t> steps(const std::filesystem::path& file) {
    std::vector<int64_t> found;
    for (const std::string& line : split(read_file(file), '\n')) {
      if (!line.empty()) found.push_back(nlohmann::json::parse(line).at("step"));
    }
    return found;
  }
  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "metrics.jsonl";
};

TEST_F(MetricsFileTest, AResumedRunHasEachStepOnce) {
  {
    MetricsFile file(path_, 0);
    for (int64_t step = 1; step <= 5; ++step) file.append(record(step));
  }
  // Killed in the middle of a line; the checkpoint is of step 3.
  replace_file(path_, read_file(path_) + "{\"step\": 6, \"lo");
  MetricsFile file(path_, 3);
  file.append(record(4));
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4}));
}

TEST_F(MetricsFileTest, AFreshRunDropsWhatAnEarlierOneLeft) {
  {
    MetricsFile file(path_, 0);
    file.append(record(1));
  }
  MetricsFile file(path_, 0);
  EXPECT_TRUE(steps().empty());
}

TEST_F(MetricsFileTest, ARecordThatLostTheEndOfItsLineIsKept) {
  {
    MetricsFile file(path_, 0);
    for (int64_t step = 1; step <= 3; ++step) file.append(record(step));
  }
  const std::string whole = read_file(path_);
  std::filesystem::resize_file(path_, whole.size() - 1);
  MetricsFile file(path_, 3);
  file.append(record(4));
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4}));
}

// A folder in the place of metrics.rolled_back.jsonl stands for a disk on which it cannot be written.
TEST_F(MetricsFileTest, WhatARollbackUndoesIsCutOffOnlyOnceItIsSafeElsewhere) {
  MetricsFile file(path_, 0);
  for (int64_t step = 1; step <= 5; ++step) EXPECT_EQ(file.append(record(step)), "");
  std::filesystem::create_directory(aside());
  EXPECT_NE(file.roll_back(3).find("metrics.rolled_back.jsonl"), std::string::npos);
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4, 5})) << "nothing is lost, and nothing there twice";
  for (int64_t step = 4; step <= 6; ++step) EXPECT_NE(file.append(record(step)), "");
  EXPECT_NE(file.roll_back(2), "") << "further back, and of what was not written yet";
  EXPECT_NE(file.append(record(3)), "");
  std::filesystem::remove(aside());
  EXPECT_EQ(file.append(record(4)), "");
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4}));
  EXPECT_EQ(steps(aside()), (std::vector<int64_t>{4, 5, 3, 4, 5, 6}));
  EXPECT_EQ(file.roll_back(3), "");
  EXPECT_EQ(steps(aside()), (std::vector<int64_t>{4, 5, 3, 4, 5, 6, 4}));
}

}  // namespace
}  // namespace pimoe
