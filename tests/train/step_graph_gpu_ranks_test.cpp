/// Replicas with the experts whole on each: the sums over ranks are part of the graph. Over NCCL where each rank has a GPU of its own; where they share
/// one, and with the experts shared out, steps run as usual.

#include "train/small_gpu_run.h"

namespace pimoe {
namespace {

std::unique_ptr<ProcessMesh> gpu_mesh(int64_t expert_parallel) {
  MeshConfig config;
  config.device = DeviceChoice::kCuda;
  config.expert_parallel = expert_parallel;
  return world_mesh(config, small_config(CudaGraphs::kOff).model.moe.experts);
}

TEST(StepGraphOfReplicas, ReplayedStepsAreTheSameToTheBit) {
  const auto mesh = gpu_mesh(1);
  EXPECT_EQ(StepGraph::obstacle(small_config(CudaGraphs::kAuto), at::kBFloat16, *mesh).empty(), mesh->transport() == Transport::kNccl);
  SmallRun replayed(small_config(CudaGraphs::kAuto), *mesh);
  SmallRun usual(small_config(CudaGraphs::kOff), *mesh);
  for (int step = 0; step < 20; ++step) expect_the_same(replayed.step(), usual.step());
}

TEST(StepGraphOfReplicas, ExpertsThatAreSharedOutRunAsUsual) {
  const auto mesh = gpu_mesh(test_session().world()->size());
  EXPECT_FALSE(StepGraph::obstacle(small_config(CudaGraphs::kAuto), at::kBFloat16, *mesh).empty());
  SmallRun automatic(small_config(CudaGraphs::kAuto), *mesh);
  for (int step = 0; step < 6; ++step) EXPECT_TRUE(automatic.step().alarms.empty());
}

}  // namespace
}  // namespace pimoe
