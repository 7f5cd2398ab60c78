#include "train/step_graph.h"

#include "base/errors.h"
#include "support/ranks.h"
#include "train/learner.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

TrainConfig small_config(CudaGraphs graphs) {
  TrainConfig config;
  config.model.layers = 3;
  config.model.width = 128;
  config.model.heads = 4;
  config.model.kv_heads = 2;
  config.model.sequence_length = 64;
  config.model.vocabulary = 512;
  config.model.moe.experts = 8;
  config.model.moe.choices = 2;
  config.model.moe.expert_width = 128;
  config.model.moe.first_dense_layers = 1;
  config.model.moe.balance.bias_rate = 1e-2;  // moves what the recorded router reads
  config.train.steps = 40;
  config.train.global_batch = 7;
  config.train.micro_batch = 3;  // micro-steps of 3, 2, 2 sequences
  config.train.cuda_graphs = graphs;
  config.optimizer.warmup_steps = 4;
  config.run.deterministic = true;
  return config;
}

/// Steps of a training run on random tokens, the same for the same seed.
class SmallRun {
 public:
  SmallRun(const TrainConfig& config, const ProcessMesh& mesh) : config_(config), learner_(config, at::kBFloat16, {}, mesh) {
    learner_.optimizer().initialize(17);
  }

  StepRecord step(const PredictionObserver& seen = nullptr) {
    const int64_t length = config_.model.sequence_length;
    const StepPlan plan(config_.train.global_batch, 1, config_.train.micro_batch);
    at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(learner_.step()));
    std::vector<MicroBatch> batches;
    for (int64_t index = 0; index < plan.micro_steps(); ++index) {
      const auto [first, count] = plan.share(index, 0);
      const at::Tensor rows = at::randint(0, config_.model.vocabulary, {count, length + 1}, generator, at::kLong);
      batches.push_back({.tokens = rows.narrow(1, 0, length).contiguous(),
                         .targets = rows.narrow(1, 1, length).contiguous(),
                         .micro_step = index,
                         .first_sequence = first,
                         .global_sequences = count,
                         .is_last = index + 1 == plan.micro_steps()});
    }
    const StepTerms terms = learner_.begin_step(config_.train.global_batch * length);
    return learner_.update(learner_.accumulate_gradients(batches, terms, seen));
  }

  Learner& learner() { return learner_; }

 private:
  TrainConfig config_;
  Learner learner_;
};

class StepGraphTest : public testing::Test {
 protected:
  StepGraphTest() {
    MeshConfig config;
    config.device = DeviceChoice::kCuda;
    mesh_ = single_mesh(config);
  }
  std::unique_ptr<ProcessMesh> mesh_;
};

void expect_the_same(const StepRecord& replayed, const StepRecord& usual) {
  EXPECT_EQ(replayed.alarms, usual.alarms) << "step " << usual.step;  // among them that steps are not recorded
  EXPECT_EQ(replayed.loss, usual.loss) << "step " << usual.step;
  EXPECT_EQ(replayed.gradient_norm, usual.gradient_norm) << "step " << usual.step;
  ASSERT_TRUE(replayed.routing && usual.routing);
  EXPECT_EQ(replayed.routing->load, usual.routing->load) << "step " << usual.step;
  EXPECT_EQ(replayed.routing->bias_max, usual.routing->bias_max) << "step " << usual.step;
}

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
