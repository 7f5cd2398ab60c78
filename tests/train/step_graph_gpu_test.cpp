#include "train/step_graph.h"

#include "base/errors.h"
#include "train/small_gpu_run.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>

namespace pimoe {
namespace {

class StepGraphTest : public testing::Test {
 protected:
  StepGraphTest() {
    MeshConfig config;
    config.device = DeviceChoice::kCuda;
    mesh_ = single_mesh(config);
  }
  std::unique_ptr<ProcessMesh> mesh_;
};

TEST_F(StepGraphTest, ReplayedStepsAreTheSameToTheBit) {
  SmallRun replayed(small_config(CudaGraphs::kOn), *mesh_);
  SmallRun usual(small_config(CudaGraphs::kOff), *mesh_);
  for (int step = 0; step < 20; ++step) {
    SCOPED_TRACE(step);
    const StepRecord record = replayed.step();
    expect_the_same(record, usual.step());
    EXPECT_GT(record.forward_ms, 0.0);
    EXPECT_GT(record.backward_ms, 0.0);
    EXPECT_GT(record.routing->experts_ms.front(), 0.0);
  }
}

TEST_F(StepGraphTest, StepsThatSomebodyLooksAtRunAsUsualInBetween) {
  SmallRun replayed(small_config(CudaGraphs::kOn), *mesh_);
  SmallRun usual(small_config(CudaGraphs::kOff), *mesh_);
  int64_t looked_at = 0;
  const PredictionObserver seen = [&looked_at](const MicroBatch&, const Prediction& prediction) {
    looked_at += prediction.routing.front().experts.cpu().size(0);
  };
  for (int step = 0; step < 16; ++step) {
    const bool is_looked_at = step % 4 == 3;
    expect_the_same(replayed.step(is_looked_at ? seen : nullptr), usual.step());
  }
  EXPECT_EQ(looked_at, 4 * 7 * 64);
}

TEST_F(StepGraphTest, AConstantThatChangesIsRecordedAnew) {
  TrainConfig config = small_config(CudaGraphs::kOn);
  config.model.moe.adaptive.enabled = true;
  config.model.moe.adaptive.window = 4;
  SmallRun replayed(config, *mesh_);
  config.train.cuda_graphs = CudaGraphs::kOff;
  SmallRun usual(config, *mesh_);
  for (int step = 0; step < 30; ++step) expect_the_same(replayed.step(), usual.step());
}

TEST_F(StepGraphTest, WhatCannotBeRecordedIsRefusedOrRunsAsUsual) {
  TrainConfig config = small_config(CudaGraphs::kOn);
  config.model.moe.router.jitter = 0.1;
  EXPECT_THROW(Learner(config, at::kBFloat16, {}, *mesh_), ConfigError);
  EXPECT_THROW(Learner(small_config(CudaGraphs::kOn), at::kFloat, {}, *mesh_), ConfigError);
  config.train.cuda_graphs = CudaGraphs::kAuto;
  SmallRun automatic(config, *mesh_);
  for (int step = 0; step < 6; ++step) EXPECT_TRUE(automatic.step().alarms.empty());
}

// What the list of obstacles forgets must not end a run.
TEST_F(StepGraphTest, ARecordingThatFailsLeavesTheDeviceUsable) {
  SideStream stream(mesh_->device());
  const at::Tensor number = at::ones({4}, at::TensorOptions().device(mesh_->device()));
  stream.run({}, [&] { EXPECT_THROW(DeviceGraph(mesh_->device(), [&] { static_cast<void>((number + 1).cpu()); }), c10::Error); });
  stream.join();
  EXPECT_EQ((number * 3).sum().item<double>(), 12.0);
  SmallRun replayed(small_config(CudaGraphs::kOn), *mesh_);
  SmallRun usual(small_config(CudaGraphs::kOff), *mesh_);
  for (int step = 0; step < 8; ++step) expect_the_same(replayed.step(), usual.step());
}

}  // namespace
}  // namespace pimoe
