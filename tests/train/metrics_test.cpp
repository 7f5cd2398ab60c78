#include "train/metrics.h"

#include "base/file_io.h"
#include "base/text.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <cmath>

namespace pimoe {
namespace {

// Two layers, four experts. Loads 4 4 4 4: even. Loads 10 6 0 0: mean 4, the largest 6 above it.
TEST(RoutingMetrics, FollowTheirDefinitions) {
  const at::Tensor load = at::tensor({4, 4, 4, 4, 10, 6, 0, 0}, at::kLong).view({2, 4});
  const RoutingMetrics metrics = routing_metrics(load);
  EXPECT_DOUBLE_EQ(metrics.maxvio[0], 0.0);
  EXPECT_DOUBLE_EQ(metrics.maxvio[1], 1.5);
  EXPECT_NEAR(metrics.entropy[0], 1.0, 1e-12);
  EXPECT_NEAR(metrics.entropy[1], -(0.625 * std::log(0.625) + 0.375 * std::log(0.375)) / std::log(4.0), 1e-12);
  EXPECT_DOUBLE_EQ(metrics.utilization[0], 1.0);
  EXPECT_DOUBLE_EQ(metrics.utilization[1], 0.5);
}

class MetricsFileTest : public testing::Test {
 protected:
  MetricsFileTest() : path_(std::filesystem::temp_directory_path() / concat("pimoe-metrics-", getpid(), ".jsonl")) {}
  ~MetricsFileTest() override { std::filesystem::remove(path_); }

  static StepRecord record(int64_t step) {
    StepRecord made;
    made.step = step;
    made.loss = 0.5;
    return made;
  }
  std::vector<int64_t> steps() const {
    std::vector<int64_t> found;
    for (const std::string& line : split(read_file(path_), '\n')) {
      if (!line.empty()) found.push_back(nlohmann::json::parse(line).at("step"));
    }
    return found;
  }
  std::filesystem::path path_;
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

TEST(StepLine, SaysWhatAPersonNeeds) {
  StepRecord record;
  record.step = 12;
  record.loss = 3.41234;
  record.validation_loss = 3.3771;
  record.gradient_norm = 0.84;
  record.learning_rate = 9.4e-4;
  record.tokens_per_second = 41230;
  record.mfu = 0.381;
  record.memory_bytes = 61'200'000'000;
  record.activation_bytes = 1'500'000;
  const std::string line = to_line(record, 20000, 11520);
  for (const char* part : {"step    12/20000", "loss 3.4123", "val 3.3771", "norm 0.840", "lr 9.4e-04", "41,230 tok/s", "38.1 % MFU",
                           "61.2 GB", "left 3h 12m"}) {
    EXPECT_NE(line.find(part), std::string::npos) << part << " in: " << line;
  }
}

}  // namespace
}  // namespace pimoe
