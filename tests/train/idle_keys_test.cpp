#include "train/idle_keys.h"

#include "base/file_io.h"
#include "base/text.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

namespace pimoe {
namespace {

class IdleKeys : public testing::Test {
 protected:
  IdleKeys() : file_(std::filesystem::temp_directory_path() / concat("pimoe-idle-", getpid(), ".yaml")) {}
  ~IdleKeys() override { std::filesystem::remove(file_); }

  /// The keys that are told of, for a configuration of four experts and these lines.
  std::vector<std::string> told(const std::vector<std::string>& overrides, const std::string& file = "data: {train: corpus}\n") const {
    replace_file(file_, file);
    std::vector<std::string> keys;
    for (const std::string& line : idle_keys(read_config_source(file_), overrides)) {
      EXPECT_NE(line.find(") has no effect, because "), std::string::npos) << line;
      keys.push_back(line.substr(0, line.find(' ')));
    }
    return keys;
  }
  std::filesystem::path file_;
};

using Keys = std::vector<std::string>;

// Each line: what is written, and whether the first key of it does nothing then.
TEST_F(IdleKeys, AreToldWhereTheyDoNothingAndOnlyThere) {
  struct Row {
    Keys overrides;
    bool idle;
  };
  const Row rows[] = {
      {{"model.moe.capacity_drop=position"}, true},
      {{"model.moe.capacity_drop=position", "model.moe.capacity_factor=1.5"}, false},
      {{"model.moe.rank_overflow=drop"}, true},
      {{"model.moe.rank_overflow=drop", "model.moe.rank_budget=2"}, false},
      {{"model.moe.fallback_width=8"}, true},
      {{"model.moe.fallback_width=8", "model.moe.validate=full"}, false},
      {{"model.moe.fallback_width=8", "model.moe.capacity_factor=1"}, false},
      {{"model.moe.shared_gate=true"}, true},
      {{"model.moe.shared_gate=true", "model.moe.shared_width=8"}, false},
      {{"model.moe.shared_overlap=true"}, true},
      {{"model.moe.shared_overlap=true", "model.moe.shared_width=8"}, false},
      {{"model.moe.shared_overlap=true", "model.moe.shared_width=8", "mesh.device=cpu"}, true},
      {{"model.moe.shared_overlap=true", "model.moe.shared_width=8", "mesh.device=cuda"}, false},
      {{"model.moe.shared_overlap=true", "model.moe.shared_width=8", "mesh.expert_parallel=1"}, true},
      {{"model.moe.shared_overlap=true", "model.moe.shared_width=8", "mesh.expert_parallel=2"}, false},
      {{"model.latent.value_width=8"}, true},
      {{"model.latent.value_width=8", "model.latent.kv_rank=8"}, false},
      {{"model.kv_heads=2"}, false},
      {{"model.kv_heads=2", "model.latent.kv_rank=8"}, true},
      {{"model.rotary.factor=2"}, true},
      {{"model.rotary.factor=2", "model.rotary.scaling=linear"}, false},
      {{"model.rotary.original_length=64", "model.rotary.scaling=linear"}, true},
      {{"model.rotary.original_length=64", "model.rotary.scaling=llama3"}, false},
      {{"model.rotary.beta_fast=16", "model.rotary.scaling=llama3"}, true},
      {{"model.rotary.beta_fast=16", "model.rotary.scaling=yarn"}, false},
      {{"model.rotary.low_frequency_factor=2", "model.rotary.scaling=yarn"}, true},
      {{"model.moe.router.group_choices=2"}, true},
      {{"model.moe.router.group_choices=2", "model.moe.router.groups=4"}, false},
      {{"model.moe.router.groups=2", "model.moe.router.group_choices=2"}, true},
      {{"model.moe.router.group_top=2", "model.moe.router.groups=4", "model.moe.router.group_score=max"}, true},
      {{"model.moe.router.pre_softmax=false", "model.moe.router.kind=sigmoid"}, true},
      {{"model.moe.router.pre_softmax=false"}, false},
      {{"model.moe.router.renormalize=false"}, false},
      {{"model.moe.router.renormalize=false", "model.moe.router.pre_softmax=false"}, true},
      {{"model.moe.router.renormalize=false", "model.moe.router.kind=expert_choice"}, true},
      {{"model.moe.router.jitter=0.1", "model.moe.router.kind=hash"}, true},
      {{"model.moe.router.jitter=0.1"}, false},
      {{"model.moe.router.temperature=2", "model.moe.router.kind=uniform"}, true},
      {{"model.moe.balance.bias_schedule=cosine"}, true},
      {{"model.moe.balance.bias_schedule=cosine", "model.moe.balance.bias_rate=0.001"}, false},
      {{"model.moe.balance.bias_law=proportional", "model.moe.adaptive.enabled=true"}, true},
      {{"model.moe.balance.bias_rate=0.001", "model.moe.router.kind=expert_choice"}, true},
      {{"model.moe.balance.sequence_loss=0.1", "model.moe.router.kind=hash"}, true},
      {{"model.moe.adaptive.bias_rate_start=0.1"}, true},
      {{"model.moe.adaptive.enabled=true"}, false},
      {{"model.moe.adaptive.enabled=true", "model.moe.router.kind=hash"}, true},
      {{"model.moe.adaptive.enabled=true", "model.moe.router.kind=expert_choice"}, true},
      {{"model.moe.adaptive.window=7"}, false},
      {{"model.moe.adaptive.temperature_max=1", "model.moe.adaptive.enabled=true", "model.moe.router.temperature=2"}, true},
      {{"model.moe.expert_width=8", "model.moe.groups=[{name: a, count: 8, width: 4}]"}, true},
      {{"model.moe.expert_width=8", "model.moe.groups=[{name: a, count: 8}]"}, false},
      {{"model.moe.choices=1", "model.moe.experts=0"}, true},
      {{"model.moe.first_dense_layers=9"}, false},
      {{"log.routing.every_steps=5", "model.moe.experts=0"}, true},
      {{"log.routing.tokens=5"}, true},
      {{"log.routing.tokens=5", "log.routing.every_steps=5"}, false},
      {{"train.recompute=moe", "model.moe.experts=0"}, true},
      {{"train.recompute=full", "model.moe.experts=0"}, false},
      {{"train.validate_every=7"}, true},
      {{"train.validate_every=7", "data.validation=held-out"}, false},
      {{"model.feed_forward_width=64"}, true},
      {{"model.feed_forward_width=64", "model.moe.first_dense_layers=1"}, false},
      {{"run.walltime_margin=60"}, true},
      {{"run.walltime_margin=60", "run.walltime=2h"}, false},
      {{"optimizer.final_ratio=0.5", "optimizer.schedule=constant"}, true},
      {{"optimizer.decay_share=0.5"}, true},
      {{"optimizer.decay_share=0.5", "optimizer.schedule=warmup_stable_decay"}, false},
      {{"checkpoint.retry_seconds=5", "checkpoint.on_error=stop"}, true},
  };
  for (const Row& row : rows) {
    const std::string key = split(row.overrides.front(), '=')[0];
    const Keys keys = told(row.overrides);
    EXPECT_EQ(std::count(keys.begin(), keys.end(), key), row.idle ? 1 : 0) << join(row.overrides, " ") << " told of: " << join(keys, " ");
  }
}

TEST_F(IdleKeys, AreThoseThatSomebodyWroteOtherwiseThanTheDefault) {
  EXPECT_EQ(told({}), Keys{}) << "defaults";
  EXPECT_EQ(told({"log.routing.tokens=64"}), Keys{}) << "the default's value says nothing";
  EXPECT_EQ(told({}, to_yaml(TrainConfig())), Keys{}) << "a printed configuration";
  for (const char* preset : {"basic", "enhanced", "advanced", "aggressive", "production"}) {
    EXPECT_EQ(told({concat("preset=", preset)}), Keys{}) << preset;
  }
}

TEST_F(IdleKeys, MayHangOnWhereARunIs) {
  replace_file(file_, "data: {train: corpus}\n");
  const ConfigSource file = read_config_source(file_);
  const std::vector<std::string> overlap = {"model.moe.shared_overlap=true", "model.moe.shared_width=8"};
  EXPECT_EQ(idle_keys(file, overlap, nullptr, {.on_cpu = false, .expert_parallel = 2}), Keys{});
  EXPECT_EQ(
      idle_keys(file, overlap, nullptr, {.on_cpu = true, .expert_parallel = 2}),
      Keys{"model.moe.shared_overlap (true, command line) has no effect, because the run is on CPUs, and it is of GPUs that share out the "
           "experts"});
  EXPECT_EQ(
      idle_keys(file, overlap, nullptr, {.on_cpu = false, .expert_parallel = 1}),
      Keys{"model.moe.shared_overlap (true, command line) has no effect, because each rank has all experts (expert_parallel is 1): no "
           "tokens travel meanwhile"});
}

TEST_F(IdleKeys, SayWhereTheyAreWritten) {
  replace_file(file_, "data: {train: corpus}\nlog:\n  routing: {tokens: 7}\n");
  EXPECT_EQ(idle_keys(read_config_source(file_), {}),
            Keys{concat("log.routing.tokens (7, ", file_.string(),
                        ":3:21) has no effect, because log.routing.every_steps is 0: nothing is recorded")});
}

}  // namespace
}  // namespace pimoe
