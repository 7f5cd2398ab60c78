#include "model/flops.h"
#include "model/model_fixture.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

// D 8, 2 heads and 1 kv head of 4: attention 8 * 4 * (2*2 + 2*1) = 192 weights a layer. Dense layer 3*8*6 = 144. Expert 3*8*6 = 144, two
// for a token; router 8*4 = 32. Head 8*11 = 88. S 5: attention scores 2 layers * 2 heads * 4 * 5 = 80.
TEST(TokenFlops, FollowBothConventions) {
  const TokenFlops flops = token_flops(tiny_model());
  const double active = 2 * 192 + 144 + 2 * 144 + 88;
  EXPECT_EQ(flops.megatron, 6 * active + 6 * 80);
  EXPECT_EQ(flops.torchtitan, 6 * (active + 32) + 12 * 80);
}

// D 8, 2 heads, ranks 4 and 5, widths 4 + 2 and 3: queries 4*8 + 12*4 = 80, keys and values 7*8 + 14*5 = 126, output 8*6 = 48. Scores: 2 layers *
// 2 heads * (6 + 3) / 2 * 5 = 90.
TEST(TokenFlops, OfLatentAttentionTakeItsProjectionsAndBothWidths) {
  EXPECT_EQ(attention_weights(tiny_latent_model()), 80 + 126 + 48);
  const TokenFlops flops = token_flops(tiny_latent_model());
  const double active = 2 * 254 + 144 + 2 * 144 + 88;
  EXPECT_EQ(flops.megatron, 6 * active + 6 * 90);
  EXPECT_EQ(flops.torchtitan, 6 * (active + 32) + 12 * 90);
}

// Two choices of an expert of 3*8*6 weights: 18 K D F = 18 * 2 * 8 * 6.
TEST(ExpertFlops, AreEighteenForEachChoiceWidthAndExpertWidth) {
  EXPECT_EQ(expert_flops(tiny_model()), 18 * 2 * 8 * 6);
  ModelConfig plain = tiny_model();
  plain.moe.groups = {{.name = "relu", .count = plain.moe.experts, .activation = Activation::kRelu, .layers = 2, .width = 6}};
  EXPECT_EQ(expert_flops(plain), 12 * 2 * 8 * 6) << "no gate";
}

TEST(ParameterCount, EqualsWhatTheModelDeclares) {
  for (const bool tied : {false, true}) {
    ModelConfig config = tiny_model();
    config.tie_embeddings = tied;
    config.moe.shared_width = 5;
    config.moe.shared_gate = true;
    config.qkv_bias = true;
    if (tied) {
      const ModelConfig latent = tiny_latent_model();
      config.qk_norm = config.qkv_bias = false;
      config.latent = latent.latent;
    }
    ModelFixture fixture(config, at::kFloat);
    int64_t total = 0;
    for (const auto& parameter : fixture.model.parameters()) total += parameter->box.global_numel();
    EXPECT_EQ(parameter_count(config).total, total);
    EXPECT_EQ(parameter_count(config).total - parameter_count(config).active,
              2 * 144 + (tied ? 0 : 88));  // two idle experts, the embedding
  }
}

TEST(ModelSize, WhatDoesNotFit64BitsIsRefusedWhereverItIsSet) {
  const auto refused = [](void (*change)(ModelConfig&)) {
    ModelConfig config;
    change(config);
    Violations violations;
    config.validate(violations);
    return !violations.empty();
  };
  EXPECT_FALSE(refused([](ModelConfig&) {}));
  EXPECT_TRUE(refused([](ModelConfig& config) { config.moe.groups = {{.name = "wide", .count = 8, .layers = 16, .width = 1 << 24}}; }));
  EXPECT_TRUE(refused([](ModelConfig& config) {
    config.layers = 10'000;
    config.width = 1 << 16;
    config.moe.fallback_width = 1 << 24;
  }));
  EXPECT_TRUE(refused([](ModelConfig& config) {
    config.layers = 10'000;
    config.width = 1 << 20;
    config.moe.router.projection = 1 << 24;
  }));
}

}  // namespace
}  // namespace pimoe
