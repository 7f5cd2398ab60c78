#include "compress/pruning_plan.h"

#include "base/errors.h"
#include "compress/pruned_layer.h"
#include "support/ranks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

TEST(KeptCount, IsTheNearestMultipleBelow) {
  EXPECT_EQ(kept_count(8, 0.3, 1), 6) << "5.6";
  EXPECT_EQ(kept_count(10, 0.3, 1), 7) << "(1 - 0.3) * 10 is a little less than 7";
  EXPECT_EQ(kept_count(8, 0.3, 4), 4) << "8 would be nearer, and nothing would go";
  EXPECT_EQ(kept_count(10, 0.25, 1), 8) << "of 7 and 8 the larger";
  EXPECT_EQ(kept_count(8, 0.01, 1), 7);
  EXPECT_EQ(kept_count(8, 0.99, 1), 1);
  EXPECT_EQ(kept_count(256, 0.3, 16), 176);
  EXPECT_EQ(kept_count(8, 0.5, 8), 0);
  EXPECT_EQ(kept_count(1, 0.5, 1), 0);
}

TEST(UsualMultiple, IsAPowerOfTwoThatIsSmallBesideTheWidth) {
  EXPECT_EQ(usual_multiple(256), 16);
  EXPECT_EQ(usual_multiple(768), 32);
  EXPECT_EQ(usual_multiple(1408), 64);
  EXPECT_EQ(usual_multiple(14336), 64);
  EXPECT_EQ(usual_multiple(100), 4);
  EXPECT_EQ(usual_multiple(7), 1);
}

TEST(PlacesOfLargest, AreInRisingOrderAndOfEqualsTheFirst) {
  const at::Tensor values = at::tensor({1.0, 5.0, 3.0, 5.0, 3.0});
  EXPECT_EQ(places_of_largest(values, 3), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(places_of_largest(at::zeros({4}, at::kDouble), 2), (std::vector<int64_t>{0, 1})) << "a layer that saw no token";
}

TrainConfig of_experts(int64_t experts, int64_t choices = 2) {
  TrainConfig config;
  config.model.vocabulary = 11;
  config.model.moe.experts = experts;
  config.model.moe.choices = choices;
  config.model.moe.expert_width = 256;
  return config;
}

/// What `smaller_config` says that is wrong; "" where it makes one.
std::string refusal(const TrainConfig& config, const PruneChoice& choice) {
  try {
    smaller_config(config, choice);
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

TEST(SmallerConfig, HasFewerExpertsOrNarrowerOnes) {
  const TrainConfig fewer = smaller_config(of_experts(8), {.kind = PruneKind::kExperts});
  EXPECT_EQ(fewer.model.moe.experts, 6);
  EXPECT_EQ(fewer.model.moe.expert_width, 256);
  const TrainConfig narrower = smaller_config(of_experts(8), {.kind = PruneKind::kChannels});
  EXPECT_EQ(narrower.model.moe.experts, 8);
  EXPECT_EQ(narrower.model.moe.expert_width, 176);
  EXPECT_EQ(smaller_config(of_experts(8), {.kind = PruneKind::kMerge, .ratio = 0.5}).model.moe.experts, 4);
  EXPECT_EQ(smaller_config(of_experts(64), {.kind = PruneKind::kExperts, .multiple = 8}).model.moe.experts, 48) << "44.8";
}

TEST(SmallerConfig, KeepsWhatExpertParallelismNeedsUnlessTold) {
  TrainConfig config = of_experts(64);
  config.mesh.expert_parallel = 4;
  EXPECT_EQ(smaller_config(config, {}).model.moe.experts, 44);
  EXPECT_EQ(smaller_config(config, {}).mesh.expert_parallel, 4);
  const TrainConfig told = smaller_config(config, {.multiple = 5});
  EXPECT_EQ(told.model.moe.experts, 45);
  EXPECT_EQ(told.mesh.expert_parallel, 0) << "4 does not divide 45";
}

TEST(SmallerConfig, DropsWhatIsNoLongerTrue) {
  TrainConfig config = of_experts(8);
  config.model.initial_weights = "hf";
  config.model.upcycle = "experts=8";
  config.model.moe.router.replay = "routing";
  const TrainConfig smaller = smaller_config(config, {});
  EXPECT_TRUE(smaller.model.initial_weights.empty());
  EXPECT_TRUE(smaller.model.upcycle.empty());
  EXPECT_TRUE(smaller.model.moe.router.replay.empty());
}

TEST(SmallerConfig, PrunesEvenlyInsideOfGroups) {
  TrainConfig limited = of_experts(16);
  limited.model.moe.router.groups = 4;
  limited.model.moe.router.group_choices = 2;
  const TrainConfig fewer = smaller_config(limited, {.ratio = 0.25});
  EXPECT_EQ(fewer.model.moe.experts, 12);
  const std::vector<ExpertCell> cells = cells_of(limited.model.moe, fewer.model.moe);
  ASSERT_EQ(cells.size(), 4U);
  EXPECT_EQ(cells[2].first, 8);
  EXPECT_EQ(cells[2].kept, 3);

  TrainConfig typed = of_experts(12);
  typed.model.moe.groups = {{.name = "a", .count = 4},
                            {.name = "b", .count = 8, .activation = Activation::kGelu, .layers = 3, .width = 64}};
  const TrainConfig of_each = smaller_config(typed, {.ratio = 0.25});
  EXPECT_EQ(of_each.model.moe.groups[0].count, 3);
  EXPECT_EQ(of_each.model.moe.groups[1].count, 6);
  EXPECT_EQ(of_each.model.moe.experts, 9);
  const TrainConfig narrower = smaller_config(typed, {.kind = PruneKind::kChannels, .ratio = 0.25});
  EXPECT_EQ(narrower.model.moe.expert_width, 192);
  EXPECT_EQ(narrower.model.moe.groups[0].width, 0) << "expert_width is its";
  EXPECT_EQ(narrower.model.moe.groups[1].width, 48);
  EXPECT_NE(refusal(typed, {.kind = PruneKind::kMerge}).find("group b"), std::string::npos) << "three matrices";
  typed.model.moe.router.groups = 2;
  EXPECT_NE(refusal(typed, {}).find("router.groups"), std::string::npos);
}

TEST(SmallerConfig, RefusesWhatCannotBePruned) {
  EXPECT_NE(refusal(of_experts(0), {}).find("no experts"), std::string::npos);
  EXPECT_NE(refusal(of_experts(8, 6), {.ratio = 0.5}).find("model.moe.choices (6)"), std::string::npos);
  EXPECT_NE(refusal(of_experts(8), {.multiple = 8}).find("multiple of 8"), std::string::npos);
  TrainConfig hashed = of_experts(8);
  hashed.model.moe.router.kind = RouterKind::kHash;
  EXPECT_NE(refusal(hashed, {}).find("hash"), std::string::npos);
  EXPECT_EQ(refusal(hashed, {.kind = PruneKind::kChannels}), "");
  TrainConfig quantized = of_experts(8);
  quantized.model.quantization.kind = QuantizationKind::kDynamic;
  EXPECT_NE(refusal(quantized, {}).find("int8"), std::string::npos);
}

/// [E], and as many as the layer has channels in each of its groups.
LayerImportance importance_of(const LayerFixture& fixture, const at::Tensor& tokens) {
  const at::NoGradGuard no_gradients;
  const std::unique_ptr<ProcessMesh> mesh = single_mesh(cpu_mesh(), fixture.config.common_divisor());
  ExpertImportance importance(const_cast<ParameterList&>(fixture.parameters), fixture.config, {"moe"});
  output_of(fixture, tokens);
  return importance.over(mesh->control())[0];
}

at::Tensor random_rows(int64_t rows, int64_t width, uint64_t seed) {
  at::manual_seed(seed);
  return at::randn({rows, width}, at::kDouble);
}

MoeConfig lean(int64_t experts, int64_t choices) {
  MoeConfig config = small_moe(experts, choices, /*renormalize=*/true);
  config.memory = MoeMemory::kLean;
  return config;
}

/// The same, with fewer of them.
MoeConfig with_experts(MoeConfig config, int64_t experts) {
  config.experts = experts;
  return config;
}

TEST(PrunedLayer, ExpertsThatNoTokenHadAreNotMissed) {
  const auto mesh = single_mesh();
  for (const std::string kind : {"softmax", "logits", "sigmoid", "biased"}) {
    MoeConfig config = lean(7, 2);
    config.router.pre_softmax = kind != "logits";
    if (kind == "sigmoid") config.router.kind = RouterKind::kSigmoid;
    config.router.linear_bias = kind == "biased";
    LayerFixture large(config, 5, *mesh, 11);
    for (const int64_t expert : {1, 4}) large.layer.router().bias()[expert] = -100.0;  // selection alone sees it
    const at::Tensor tokens = random_rows(40, 5, 3);
    const LayerImportance importance = importance_of(large, tokens);
    EXPECT_EQ(importance.loads[1].item<int64_t>(), 0);
    const LayerPlan plan = plan_experts(importance, {{.group = 0, .first = 0, .count = 7, .kept = 5}});
    EXPECT_EQ(plan.recipe.new_numbers(7), (std::vector<int64_t>{0, -1, 1, 2, -1, 3, 4})) << kind;
    EXPECT_EQ(plan.lost, 0.0);
    LayerFixture small(with_experts(config, 5), 5, *mesh, 99);
    make_of(small, large, plan.recipe);
    EXPECT_LT(relative_difference(output_of(small, tokens), output_of(large, tokens)), 1e-13) << kind;
    const LayerPlan other = plan_experts(importance, {{.group = 0, .first = 0, .count = 7, .kept = 4}});
    EXPECT_GT(other.lost, 0.0);
    LayerFixture smaller(with_experts(config, 4), 5, *mesh, 99);
    make_of(smaller, large, other.recipe);
    EXPECT_GT(relative_difference(output_of(smaller, tokens), output_of(large, tokens)), 1e-3) << "one that tokens had";
  }
}

/// Experts of every shape: gated, and with more matrices.
MoeConfig layer_of_all_shapes(int64_t plain_width, int64_t deep_width) {
  MoeConfig config = lean(7, 2);
  config.groups = {{.name = "plain", .count = 4, .activation = Activation::kSwiglu, .layers = 2, .width = plain_width},
                   {.name = "deep", .count = 3, .activation = Activation::kGelu, .layers = 4, .width = deep_width}};
  return config;
}

TEST(PrunedLayer, ChannelsOfZerosAreNotMissed) {
  const auto mesh = single_mesh();
  const MoeConfig before = layer_of_all_shapes(9, 6), after = layer_of_all_shapes(7, 5);
  LayerFixture large(before, 5, *mesh, 12);
  {
    const at::NoGradGuard no_gradients;
    const auto clear = [&](const std::string& name, int64_t expert, int64_t row) {
      large.whole.at(name)[expert][row].zero_();
      large.parameters.at(name).value[expert][row].zero_();
    };
    for (int64_t expert = 0; expert < 4; ++expert) {
      clear("moe.experts.plain.gate_up.weight", expert, (expert + 2) % 9);                              // a gate of zero
      clear("moe.experts.plain.gate_up.weight", expert, 9 + (2 * expert) % 9 + (expert == 2 ? 1 : 0));  // an up of zero, of another channel
    }
    for (int64_t expert = 0; expert < 3; ++expert) {
      clear("moe.experts.deep.up.weight", expert, expert);
      clear("moe.experts.deep.middle.0.weight", expert, expert + 1);
      clear("moe.experts.deep.middle.1.weight", expert, expert + 3);
    }
  }
  const at::Tensor tokens = random_rows(60, 5, 4);
  const LayerImportance importance = importance_of(large, tokens);
  const LayerPlan plan = plan_channels(importance, before, after);
  EXPECT_LT(plan.lost, 1e-12);
  LayerFixture small(after, 5, *mesh, 99);
  make_of(small, large, plan.recipe);
  EXPECT_LT(relative_difference(output_of(small, tokens), output_of(large, tokens)), 1e-12);
  const MoeConfig narrower = layer_of_all_shapes(6, 4);
  LayerFixture smaller(narrower, 5, *mesh, 99);
  make_of(smaller, large, plan_channels(importance, before, narrower).recipe);
  EXPECT_GT(relative_difference(output_of(smaller, tokens), output_of(large, tokens)), 1e-4) << "channels that did something";
}

}  // namespace
}  // namespace pimoe
