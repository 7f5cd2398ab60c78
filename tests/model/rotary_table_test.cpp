#include "model/rotary_table.h"
#include "base/text.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

void expect_frequencies(const RotaryConfig& rotary, double theta, const std::vector<double>& expected) {
  const std::vector<double> frequencies = rotary_frequencies(rotary, theta, 16, 256);
  ASSERT_EQ(frequencies.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(frequencies[i] / expected[i], 1.0, 1e-6) << i;
}

std::string refusal(const ModelConfig& model) {
  Violations violations;
  model.validate(violations);
  return violations.empty() ? "" : violations.lines()[0].first + " " + violations.lines()[0].second;
}

// The numbers are transformers' own (5.17, LlamaConfig with heads of 16, in float32).
TEST(RotaryFrequencies, AreThoseOfTransformersForEachScaling) {
  expect_frequencies({.scaling = RotaryScaling::kLinear, .factor = 4}, 1e4,
                     {0.25, 0.07905694, 0.025, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05});
  const RotaryConfig yarn{.scaling = RotaryScaling::kYarn, .factor = 4, .original_length = 64};
  expect_frequencies(yarn, 1e4, {1.0, 0.2371708, 0.05, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05});
  EXPECT_NEAR(rotary_attention_factor(yarn), 1.138629436111989, 1e-15);
  const RotaryConfig all_keys{.scaling = RotaryScaling::kYarn,
                              .factor = 40,
                              .original_length = 4096,
                              .mscale = 1.0,
                              .mscale_all_dim = 0.5,
                              .beta_fast = 16,
                              .beta_slow = 2,
                              .truncate = false};
  expect_frequencies(all_keys, 5e5, {1.0, 0.1939228, 0.03760603, 0.003142984, 3.535534e-05, 6.856204e-06, 1.329574e-06, 2.578346e-07});
  EXPECT_NEAR(rotary_attention_factor(all_keys), 1.1557219901962608, 1e-15);
  const RotaryConfig llama3{.scaling = RotaryScaling::kLlama3, .factor = 8, .original_length = 8192};
  expect_frequencies(llama3, 5e5, {1.0, 0.1939228, 0.03760603, 0.007292665, 0.000524846, 3.428102e-05, 6.64787e-06, 1.289173e-06});
  EXPECT_EQ(rotary_attention_factor(llama3), 1.0);
}

TEST(RotaryFrequencies, OfDynamicScalingAreThePlainOnesAsFarAsTheyGo) {
  const RotaryConfig dynamic{.scaling = RotaryScaling::kDynamic, .factor = 4, .original_length = 256};
  EXPECT_EQ(rotary_frequencies(dynamic, 1e4, 16, 256), rotary_frequencies({}, 1e4, 16, 256));
}

TEST(RotaryTable, TurnsByTheAttentionFactorToo) {
  ModelConfig model;
  model.width = 16;
  model.heads = 1;
  model.sequence_length = 8;
  model.rotary = {.scaling = RotaryScaling::kYarn, .factor = 2, .attention_factor = 1.5};
  const RotaryTable table(model, at::kDouble, at::kCPU);
  EXPECT_LT((table.cosine.square() + table.sine.square() - 2.25).abs().max().item<double>(), 1e-12);
}

TEST(RotaryConfig, NamesWhatCannotBe) {
  ModelConfig model;
  model.rotary = {.scaling = RotaryScaling::kDynamic, .factor = 2, .original_length = 100};
  EXPECT_NE(refusal(model).find("model.sequence_length (256) must be at most model.rotary.original_length (100)"), std::string::npos);
  model.rotary = {.scaling = RotaryScaling::kYarn, .factor = 2, .beta_fast = 1, .beta_slow = 2};
  EXPECT_NE(refusal(model).find("model.rotary.beta_fast (1) must be at least model.rotary.beta_slow (2)"), std::string::npos);
  model.rotary = {.scaling = RotaryScaling::kLlama3, .low_frequency_factor = 4};
  EXPECT_NE(refusal(model).find("model.rotary.high_frequency_factor (4) must be above"), std::string::npos);
  model.rotary = {.scaling = RotaryScaling::kYarn};
  model.rope_theta = 1;
  EXPECT_NE(refusal(model).find("model.rope_theta (1) must be above 1"), std::string::npos);
}

}  // namespace
}  // namespace pimoe
