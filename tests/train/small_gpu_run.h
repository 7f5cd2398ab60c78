#pragma once

/// Training steps on random tokens, small enough to make dozens of them with a graph and without.

#include "support/ranks.h"
#include "train/learner.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

namespace pimoe {

inline TrainConfig small_config(CudaGraphs graphs) {
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
  SmallRun(const TrainConfig& config, const ProcessMesh& mesh, at::ScalarType dtype = at::kBFloat16)
      : config_(config), mesh_(mesh), learner_(config, dtype, {}, mesh) {
    learner_.optimizer().initialize(17);
  }

  StepRecord step(const PredictionObserver& seen = nullptr) {
    const int64_t length = config_.model.sequence_length;
    const Communicator& group = mesh_.group(Group::kBatch);
    const StepPlan plan(config_.train.global_batch, group.size(), config_.train.micro_batch);
    at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(learner_.step() * 100 + group.rank()));
    std::vector<MicroBatch> batches;
    for (int64_t index = 0; index < plan.micro_steps(); ++index) {
      const auto [first, count] = plan.share(index, group.rank());
      const at::Tensor rows = at::randint(0, config_.model.vocabulary, {count, length + 1}, generator, at::kLong);
      batches.push_back({.tokens = rows.narrow(1, 0, length).contiguous(),
                         .targets = rows.narrow(1, 1, length).contiguous(),
                         .micro_step = index,
                         .first_sequence = first,
                         .global_sequences = plan.micro_step_sequences(index),
                         .is_last = index + 1 == plan.micro_steps()});
    }
    const StepTerms terms = learner_.begin_step(config_.train.global_batch * length);
    return learner_.update(learner_.accumulate_gradients(batches, terms, seen));
  }

  Learner& learner() { return learner_; }

 private:
  TrainConfig config_;
  const ProcessMesh& mesh_;
  Learner learner_;
};

inline void expect_the_same(const StepRecord& replayed, const StepRecord& usual) {
  EXPECT_EQ(replayed.alarms, usual.alarms) << "step " << usual.step;  // among them that steps are not recorded
  EXPECT_EQ(replayed.loss, usual.loss) << "step " << usual.step;
  EXPECT_EQ(replayed.gradient_norm, usual.gradient_norm) << "step " << usual.step;
  ASSERT_TRUE(replayed.routing && usual.routing);
  EXPECT_EQ(replayed.routing->load, usual.routing->load) << "step " << usual.step;
  EXPECT_EQ(replayed.routing->bias_max, usual.routing->bias_max) << "step " << usual.step;
}

}  // namespace pimoe
