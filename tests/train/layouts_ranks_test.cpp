#include "base/text.h"
#include "train/tiny_run.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>

namespace pimoe {
namespace {

struct Result {
  std::vector<double> loss;
  std::vector<double> norm;
  std::map<std::string, at::Tensor> weights;  // whole masters, from the final checkpoint
};

Result read_result(const TrainConfig& config) {
  Result result;
  for (const auto& record : records_of(config)) {
    result.loss.push_back(record.at("loss"));
    result.norm.push_back(record.at("grad_norm"));
  }
  const std::filesystem::path checkpoint = find_checkpoint(config.run.directory);
  Snapshot wanted;
  const auto mesh = single_mesh(cpu_mesh(), config.model.moe.experts);
  Transformer model(config.model, at::kDouble, *mesh);
  for (const auto& parameter : model.parameters()) {
    const Box whole = Box::whole(parameter->box.global);
    const at::Tensor values = at::zeros({whole.numel()}, at::kDouble);
    wanted.pieces.push_back({"master", {parameter->name, whole, 0, whole.numel()}, values});
    result.weights[parameter->name] = values;
  }
  restore_snapshot(checkpoint, wanted);
  return result;
}

struct Layout {
  int ranks;
  int64_t expert_parallel;
};

/// Trains on the first `ranks` ranks of the job; the others wait.
/// @param closed_experts  the first so many experts are never chosen
Result train(TrainConfig config, Layout layout, int64_t closed_experts) {
  const auto world = test_session().world();
  const int64_t experts = config.model.moe.experts;
  config.mesh.expert_parallel = layout.expert_parallel;
  config.train.micro_batch = micro_batch_for_two_steps(layout.ranks);
  config.run.directory += concat("-", layout.ranks, "-", layout.expert_parallel);
  const auto mesh = sub_mesh(layout.ranks, config.mesh, experts);
  if (world->rank() < layout.ranks) {
    Logger log(1);  // silent but for trouble
    Trainer trainer(config, *mesh, log, nullptr);
    for (MoELayer* layer : trainer.model().moe_layers()) layer->router().bias().slice(0, 0, closed_experts).fill_(-10);
    EXPECT_EQ(trainer.run(), TrainOutcome::kComplete);
  }
  world->patient_barrier();
  return read_result(config);
}

/// Every layout that fits this job against one rank.
void expect_layouts_agree(const TrainConfig& config, double tolerance, double weight_tolerance, int64_t closed_experts = 0) {
  const int ranks = test_session().world()->size();
  const Result alone = train(config, {1, 1}, closed_experts);
  ASSERT_EQ(alone.loss.size(), static_cast<size_t>(config.train.steps));
  EXPECT_LT(alone.loss.back(), alone.loss.front()) << "it learns something";
  for (int64_t expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
    if (ranks == 1 || ranks % expert_parallel != 0 || config.model.moe.experts % expert_parallel != 0) continue;
    SCOPED_TRACE(concat("ranks ", ranks, " EP ", expert_parallel));
    const Result shared = train(config, {ranks, expert_parallel}, closed_experts);
    ASSERT_EQ(shared.loss.size(), alone.loss.size());
    for (size_t step = 0; step < alone.loss.size(); ++step) {
      EXPECT_NEAR(shared.loss[step], alone.loss[step], tolerance * alone.loss[step]) << "step " << step + 1;
      EXPECT_NEAR(shared.norm[step], alone.norm[step], 10 * tolerance * alone.norm[step]) << "step " << step + 1;
    }
    for (const auto& [name, values] : alone.weights) {
      const double difference = (shared.weights.at(name) - values).abs().max().item<double>();
      EXPECT_LE(difference, weight_tolerance * values.abs().max().item<double>()) << name;
    }
  }
}

// As many steps as tiny_config has once, in the first test; a few elsewhere: what differs shows in the first ones, and accumulates.
constexpr int64_t kFewSteps = 12;

TEST(Layouts, TrainTheSameModelInFloat64) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
  config.model.moe.balance.bias_rate = 1e-3;
  expect_layouts_agree(config, 1e-10, 1e-8);
}

TEST(Layouts, TrainTheSameModelUnderAdaptiveControl) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
  config.train.steps = kFewSteps;
  config.model.moe.adaptive.enabled = true;
  config.model.moe.adaptive.window = 2;
  expect_layouts_agree(config, 1e-10, 1e-8);
}

TEST(Layouts, TrainTheSameModelUnderRecompute) {
  const SharedFolder folder;
  for (const RecomputePolicy policy : {RecomputePolicy::kMoe, RecomputePolicy::kFull}) {
    TrainConfig config = tiny_config(folder, concat("run", static_cast<int>(policy)));
    config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
    config.train.steps = kFewSteps;
    config.model.moe.shared_width = 8;
    config.train.recompute = policy;
    expect_layouts_agree(config, 1e-10, 1e-8);
  }
}

TEST(Layouts, TrainTheSameModelWhenOneRankReceivesNothing) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
  config.train.steps = kFewSteps;
  const int64_t closed = config.model.moe.experts / std::max(2, test_session().world()->size());  // the first rank's experts
  expect_layouts_agree(config, 1e-10, 1e-8, closed);
}

struct Routed {
  const char* what;
  void (*change)(TrainConfig&);
};

TEST(Layouts, TrainTheSameModelWhateverRoutesAndBounds) {
  const Routed cases[] = {
      {"sigmoid in groups, loss-free bias, sequence loss, shared expert",
       [](TrainConfig& config) {
         MoeConfig& moe = config.model.moe;
         moe.router.kind = RouterKind::kSigmoid;
         moe.router.groups = 2;
         moe.router.route_scale = 2.5;
         moe.balance.bias_rate = 1e-2;
         moe.balance.sequence_loss = 1e-2;
         moe.shared_width = 8;
         moe.memory = MoeMemory::kBalanced;
       }},
      {"softmax of the chosen, jitter, step loss, rounds within a budget, recomputation",
       [](TrainConfig& config) {
         MoeConfig& moe = config.model.moe;
         moe.router.pre_softmax = false;
         moe.router.jitter = 0.1;
         moe.balance.step_loss = 1e-2;
         moe.rank_budget = 1.0;
         moe.memory = MoeMemory::kLean;
         config.train.recompute = RecomputePolicy::kMoe;
       }},
      {"expert choice", [](TrainConfig& config) { config.model.moe.router.kind = RouterKind::kExpertChoice; }},
      {"expert choice among equal tokens",
       [](TrainConfig& config) {
         config.model.moe.router.kind = RouterKind::kExpertChoice;
         config.model.moe.choices = 3;
         config.data.train.replace(config.data.train.rfind('/'), std::string::npos, "/repeats");
       }},
      {"latent attention, positions stretched by yarn, sigmoid, a gated shared expert, recomputation",
       [](TrainConfig& config) {
         config.model.latent = {.kv_rank = 10, .query_rank = 6, .plain_width = 6, .rotary_width = 4, .value_width = 8};
         config.model.rotary = {.scaling = RotaryScaling::kYarn, .factor = 4, .original_length = 4, .mscale = 1, .mscale_all_dim = 1};
         config.model.moe.router.kind = RouterKind::kSigmoid;
         config.model.moe.shared_width = 8;
         config.model.moe.shared_gate = true;
         config.train.recompute = RecomputePolicy::kFull;
       }},
      {"biases on queries, keys and values, positions stretched as Llama 3's, norms",
       [](TrainConfig& config) {
         config.model.qkv_bias = true;
         config.model.qk_norm = true;
         config.model.rotary = {.scaling = RotaryScaling::kLlama3, .factor = 8, .original_length = 16};
       }},
      {"hash", [](TrainConfig& config) { config.model.moe.router.kind = RouterKind::kHash; }},
      {"experts of two shapes, a skewed start, adaptive control, every check",
       [](TrainConfig& config) {
         MoeConfig& moe = config.model.moe;
         const int64_t half = moe.experts / 2;
         moe.groups = {{.name = "a", .count = half, .activation = Activation::kGeglu},
                       {.name = "b", .count = half, .layers = 3, .width = 5}};
         moe.router.linear_bias = true;
         moe.router.initial_skew = 2.0;
         moe.router.projection = 6;
         moe.adaptive.enabled = true;
         moe.adaptive.window = 3;
         moe.checks = MoeValidate::kFull;
         moe.fallback_width = 4;
       }},
  };
  const SharedFolder folder;
  int number = 0;
  for (const Routed& routed : cases) {
    SCOPED_TRACE(routed.what);
    TrainConfig config = tiny_config(folder, concat("run", number++));
    config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
    config.train.steps = kFewSteps;
    routed.change(config);
    expect_layouts_agree(config, 1e-10, 1e-8);
  }
}

TEST(Layouts, TrainNearlyTheSameModelInFloat32) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
  config.train.steps = kFewSteps;
  config.train.precision = Precision::kFloat32;
  expect_layouts_agree(config, 1e-3, 0.05);
}

TEST(Layouts, MoreRanksThanSequencesTrainTheSameModel) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
  config.train.global_batch = 2;  // with 4 ranks and two micro-steps most ranks are empty
  config.train.steps = 10;
  const int ranks = test_session().world()->size();
  const Result alone = train(config, {1, 1}, 0);  // micro-batch 4: one micro-step, as every other layout
  for (int64_t expert_parallel = 1; ranks > 1 && expert_parallel <= ranks; ++expert_parallel) {
    if (ranks % expert_parallel != 0) continue;
    const Result shared = train(config, {ranks, expert_parallel}, 0);
    for (size_t step = 0; step < alone.loss.size(); ++step) EXPECT_NEAR(shared.loss[step], alone.loss[step], 1e-10 * alone.loss[step]);
  }
}

TEST(Layouts, ARunResumesAtAnotherWorldSize) {
  const SharedFolder folder;
  const auto world = test_session().world();
  TrainConfig config = tiny_config(folder, "undisturbed");
  config.optimizer.schedule = Schedule::kConstant;
  config.model.moe.experts = world->size() == 3 ? 6 : 8;
  // The first half alone, the second on all ranks. Other schedules depend on train.steps.
  TrainConfig first = config;
  first.run.directory = folder.path() / "cut";
  const Result undisturbed = train(config, {1, 1}, 0);
  first.train.steps = 15;
  first.train.micro_batch = micro_batch_for_two_steps(1);
  Logger log(1);
  if (world->rank() == 0) {
    const auto alone = single_mesh(cpu_mesh(1), config.model.moe.experts);
    Trainer(first, *alone, log, nullptr).run();
  }
  world->patient_barrier();
  first.train.steps = 30;
  first.checkpoint.resume = "auto";
  first.mesh.expert_parallel = world->size();
  first.train.micro_batch = micro_batch_for_two_steps(world->size());
  {
    const auto mesh = world_mesh(first.mesh, first.model.moe.experts);
    Trainer trainer(first, *mesh, log, nullptr);
    EXPECT_EQ(trainer.step(), 15);
    trainer.run();
  }
  world->patient_barrier();
  const Result cut = read_result(first);
  ASSERT_EQ(cut.loss.size(), 30u) << "each step once";
  for (size_t step = 0; step < 30; ++step)
    EXPECT_NEAR(cut.loss[step], undisturbed.loss[step], 1e-10 * undisturbed.loss[step]) << "step " << step + 1;
}

}  // namespace
}  // namespace pimoe
