#include "preflight/planned_job.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace pimoe {
namespace {

TEST(PlannedJob, ANodeHasTheMostRanksUpToEightThatShareThemOutEvenly) {
  const std::vector<std::pair<int64_t, int64_t>> table = {{1, 1}, {6, 6}, {8, 8}, {9, 3}, {11, 1}, {12, 6}, {14, 7}, {4096, 8}};
  for (const auto& [ranks, node] : table) EXPECT_EQ(usual_node(ranks), node) << ranks;
}

// Steps 1 to 10: due after 3, 6 and 9 or after 5 and 10; the last one by at_end too.
TEST(PlannedJob, CheckpointsAreCountedAsTheTrainerWritesThem) {
  TrainConfig config;
  config.train.steps = 10;
  const auto written = [&](int64_t every_steps, bool at_end) {
    config.checkpoint.every_steps = every_steps;
    config.checkpoint.at_end = at_end;
    return checkpoints_written(config);
  };
  EXPECT_EQ(written(3, true), 4);
  EXPECT_EQ(written(3, false), 3);
  EXPECT_EQ(written(5, true), 2);
  EXPECT_EQ(written(5, false), 2);
  EXPECT_EQ(written(0, true), 1);
  EXPECT_EQ(written(0, false), 0);
}

TEST(PlannedJob, RanksWithoutASequenceAreDoubted) {
  TrainConfig config;
  config.train.global_batch = 3;
  Preflight found;
  PlannedJob job{.ranks = 3, .node_ranks = 3, .device = device_specs().front(), .memory_bytes = {}, .skew = 1.0, .skew_name = ""};
  look_at_layout(config, job, found);
  EXPECT_TRUE(found.warnings.empty());
  job.ranks = job.node_ranks = 5;
  look_at_layout(config, job, found);
  ASSERT_EQ(found.warnings.size(), 1U);
  EXPECT_EQ(found.warnings[0], "train.global_batch (3) is below the 5 ranks: 2 of them have no sequence, and only wait");
}

}  // namespace
}  // namespace pimoe
