/// The sums over ranks, and the exchange of tokens, are part of the graph. Over NCCL where each rank has a GPU of its own; where they share one, steps
/// run as usual.

#include "train/small_gpu_run.h"

namespace pimoe {
namespace {

std::unique_ptr<ProcessMesh> gpu_mesh(int64_t expert_parallel) {
  MeshConfig config;
  config.device = DeviceChoice::kCuda;
  config.expert_parallel = expert_parallel;
  return world_mesh(config, small_config(CudaGraphs::kOff).model.moe.experts);
}

void expect_replays_like_usual(int64_t expert_parallel) {
  const auto mesh = gpu_mesh(expert_parallel);
  SmallRun replayed(small_config(CudaGraphs::kAuto), *mesh);
  SmallRun usual(small_config(CudaGraphs::kOff), *mesh);
  const bool can = StepGraph::obstacle(usual.learner().model(), *mesh).empty();
  EXPECT_EQ(can, mesh->transport() == Transport::kNccl);
  for (int step = 0; step < 20; ++step) expect_the_same(replayed.step(), usual.step());
}

TEST(StepGraphOfRanks, ReplicasReplayTheSameStepsToTheBit) { expect_replays_like_usual(1); }

TEST(StepGraphOfRanks, SoDoRanksThatShareOutTheExperts) { expect_replays_like_usual(test_session().world()->size()); }

TEST(StepGraphOfRanks, ExchangesThatWaitForCountsRunAsUsual) {
  const auto mesh = gpu_mesh(test_session().world()->size());
  TrainConfig config = small_config(CudaGraphs::kAuto);
  config.model.moe.exchange = MoeExchange::kTokens;
  SmallRun automatic(config, *mesh);
  EXPECT_FALSE(StepGraph::obstacle(automatic.learner().model(), *mesh).empty());
  for (int step = 0; step < 6; ++step) EXPECT_TRUE(automatic.step().alarms.empty());
}

}  // namespace
}  // namespace pimoe
