#include "train/monitor_summary.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

StepRecord record_of(int64_t step, double seconds, int64_t memory_bytes = 0) {
  StepRecord record;
  record.step = step;
  record.step_seconds = seconds;
  record.step_tokens = 1000;
  record.memory_bytes = memory_bytes;
  return record;
}

// Twenty steps of 10, 20, ... 200 ms, not in order: the mean is 105 ms, and 95 % of them, 19, took 190 ms at most.
TEST(MonitorSummary, TellsTheMeanAndTheNearestRankOf95Percent) {
  MonitorSummary summary({"latency"});
  for (int64_t step = 1; step <= 20; ++step) summary.add(record_of(step, 0.01 * static_cast<double>(step * 11 % 21)));
  EXPECT_EQ(summary.take(), "monitor: steps 1 to 20: latency 105.0 ms (p95 190.0 ms)");
}

TEST(MonitorSummary, TellsOneStepAsItIs) {
  MonitorSummary summary({"latency", "throughput", "memory"});
  summary.add(record_of(7, 0.5, 3'000'000'000));
  EXPECT_EQ(summary.take(), "monitor: steps 7 to 7: latency 500.0 ms (p95 500.0 ms), throughput 2,000 tok/s, memory 3.0 GB");
}

// Tokens of all steps over their whole time: 2,000 in a second, and not the mean of 4,000 and 1,333.
TEST(MonitorSummary, TellsTokensOverTimeAndTheMostMemoryInTheOrderThatIsAskedFor) {
  MonitorSummary summary({"memory", "throughput"});
  summary.add(record_of(1, 0.25, 2'000'000'000));
  summary.add(record_of(2, 0.75, 1'000'000'000));
  EXPECT_EQ(summary.take(), "monitor: steps 1 to 2: memory 2.0 GB, throughput 2,000 tok/s");
}

// Layer 0: 1, 0.5 and 0.75, layer 1: 0.5, 0.25 and 0.75. Its mean of 0.5 is the worst, though layer 0 had a step of 0.5 too.
TEST(MonitorSummary, TellsTheLayerWhoseMeanIsWorst) {
  MonitorSummary summary({"expert_utilization"});
  int64_t step = 0;
  for (const std::vector<double>& layers : {std::vector<double>{1.0, 0.5}, {0.5, 0.25}, {0.75, 0.75}}) {
    StepRecord record = record_of(++step, 0.1);
    record.routing.emplace().utilization = layers;
    summary.add(record);
  }
  EXPECT_EQ(summary.take(), "monitor: steps 1 to 3: expert utilization 0.625 (worst layer 0.500)");
}

TEST(MonitorSummary, LeavesExpertsOutWhereThereAreNoneAndBeginsAnewAfterEachLine) {
  MonitorSummary summary({"latency", "expert_utilization", "memory"});
  summary.add(record_of(1, 0.1, 5'000'000'000));
  EXPECT_EQ(summary.take(), "monitor: steps 1 to 1: latency 100.0 ms (p95 100.0 ms), memory 5.0 GB");
  summary.add(record_of(2, 0.2, 1'000'000'000));
  EXPECT_EQ(summary.take(), "monitor: steps 2 to 2: latency 200.0 ms (p95 200.0 ms), memory 1.0 GB");
}

}  // namespace
}  // namespace pimoe
