#include "model/model_fixture.h"
#include "moe/balance.h"

#include <gtest/gtest.h>

#include <map>

namespace pimoe {
namespace {

/// Every parameter's gradient of the balance losses alone.
std::map<std::string, at::Tensor> balance_gradients(const ModelConfig& config, RecomputePolicy policy) {
  ModelFixture fixture(config, at::kDouble);
  const at::Tensor tokens = random_tokens(3, 5, config.vocabulary, 1);
  const Prediction prediction = fixture.model.forward(tokens, tokens, {0, tokens.numel()}, policy);
  const at::Tensor load_before = at::arange(config.moe_layers() * config.moe.experts, at::kLong).view({config.moe_layers(), -1});
  const auto tokens_of_step = static_cast<double>(2 * tokens.numel());
  balance_terms(prediction.routing, config.moe.balance, tokens_of_step, load_before, fixture.mesh->group(Group::kBatch)).loss.backward();
  std::map<std::string, at::Tensor> gradients;
  for (const auto& parameter : fixture.model.parameters()) {
    const at::Tensor& gradient = parameter->value.grad();
    gradients[parameter->name] = gradient.defined() ? gradient.clone() : at::zeros_like(parameter->value);
  }
  return gradients;
}

/// Every parameter's gradient against central differences of the loss, at a few elements each.
void expect_gradients_right(const ModelConfig& config, int64_t batch, int64_t positions, RecomputePolicy policy) {
  ModelFixture fixture(config, at::kDouble);
  const at::Tensor tokens = random_tokens(batch, positions, config.vocabulary, 1);
  const at::Tensor targets = random_tokens(batch, positions, config.vocabulary, 2);
  fixture.loss(tokens, targets, policy).backward();
  const at::NoGradGuard no_gradients;
  for (const auto& parameter : fixture.model.parameters()) {
    ASSERT_TRUE(parameter->value.grad().defined()) << parameter->name;
    const at::Tensor flat = parameter->value.view({-1});
    const at::Tensor gradient = parameter->value.grad().reshape({-1});
    const double scale = std::max(1e-3, gradient.abs().max().item<double>());
    for (int64_t probe = 0; probe < 6; ++probe) {
      const int64_t element = (probe * 7919 + 3) % flat.numel();
      const double value = flat[element].item<double>();
      const double step = 1e-5;
      flat[element] = value + step;
      const double above = fixture.loss(tokens, targets).item<double>();
      flat[element] = value - step;
      const double below = fixture.loss(tokens, targets).item<double>();
      flat[element] = value;
      EXPECT_NEAR(gradient[element].item<double>(), (above - below) / (2 * step), 1e-6 * scale + 1e-8)
          << parameter->name << "[" << element << "]";
    }
  }
}

TEST(Transformer, GradientsEqualFiniteDifferences) { expect_gradients_right(tiny_model(), 3, 5, RecomputePolicy::kNone); }

TEST(Transformer, GradientsEqualFiniteDifferencesWithATiedHead) {
  ModelConfig config = tiny_model();
  config.tie_embeddings = true;
  config.qk_norm = false;
  expect_gradients_right(config, 2, 4, RecomputePolicy::kNone);
}

TEST(Transformer, GradientsEqualFiniteDifferencesWithNormsOverAllHeads) {
  ModelConfig config = tiny_model();
  config.qk_norm_over = QkNormOver::kProjection;
  expect_gradients_right(config, 3, 5, RecomputePolicy::kNone);
}

TEST(Transformer, GradientsEqualFiniteDifferencesWithBiasesAndAGatedSharedExpert) {
  ModelConfig config = tiny_model();
  config.qkv_bias = true;
  config.moe.shared_width = 5;
  config.moe.shared_gate = true;
  config.rotary = {.scaling = RotaryScaling::kLlama3, .factor = 8, .original_length = 20};
  expect_gradients_right(config, 3, 5, RecomputePolicy::kNone);
  config.qk_norm = false;
  expect_gradients_right(config, 2, 4, RecomputePolicy::kFull);
}

TEST(Transformer, GradientsEqualFiniteDifferencesWithLatentAttention) {
  ModelConfig config = tiny_latent_model();
  expect_gradients_right(config, 3, 5, RecomputePolicy::kNone);
  config.latent.query_rank = 0;
  config.latent.value_width = 9;
  config.latent.interleaved = false;
  expect_gradients_right(config, 2, 5, RecomputePolicy::kFull);
}

TEST(Transformer, ABiasOfQueriesKeysAndValuesMovesWhatComesOut) {
  ModelConfig config = tiny_model();
  config.qkv_bias = true;
  ModelFixture fixture(config, at::kDouble);
  const at::NoGradGuard no_gradients;
  const at::Tensor tokens = random_tokens(2, 5, config.vocabulary, 1);
  const at::Tensor before = fixture.model.logits(tokens, {0, 10});
  const at::Tensor bias = fixture.model.parameters().at("layers.1.attention.qkv.bias").value;
  EXPECT_EQ(bias.abs().max().item<double>(), 0.0) << "zeros at first";
  for (int64_t part = 0; part < 3; ++part) {  // of two query heads, one key and one value head of 4
    bias.zero_();
    bias.narrow(0, part == 0 ? 0 : 4 + 4 * part, 4).fill_(0.5);
    EXPECT_GT((fixture.model.logits(tokens, {0, 10}) - before).abs().max().item<double>(), 1e-4) << part;
  }
}

TEST(Transformer, GradientsEqualFiniteDifferencesUnderRecompute) { expect_gradients_right(tiny_model(), 2, 5, RecomputePolicy::kFull); }

TEST(Transformer, OneTokenTrains) { expect_gradients_right(tiny_model(), 1, 1, RecomputePolicy::kNone); }

TEST(Transformer, RecomputeGivesTheSameBits) {
  ModelConfig config = tiny_model();
  config.layers = 4;
  config.width = 32;
  config.heads = 4;
  config.kv_heads = 2;
  config.moe.expert_width = 16;
  config.moe.shared_width = 16;
  const at::Tensor tokens = random_tokens(3, 5, config.vocabulary, 1);
  const at::Tensor targets = random_tokens(3, 5, config.vocabulary, 2);
  for (const auto& [dtype, over] : {std::pair(at::kDouble, QkNormOver::kHead), std::pair(at::kFloat, QkNormOver::kHead),
                                    std::pair(at::kBFloat16, QkNormOver::kHead), std::pair(at::kFloat, QkNormOver::kProjection)}) {
    config.qk_norm_over = over;
    ModelFixture plain(config, dtype);
    const at::Tensor loss = plain.loss(tokens, targets);
    loss.backward();
    for (const RecomputePolicy policy : {RecomputePolicy::kMoe, RecomputePolicy::kFull}) {
      ModelFixture again(config, dtype);
      const at::Tensor same = again.loss(tokens, targets, policy);
      same.backward();
      EXPECT_TRUE(at::equal(loss, same)) << dtype;
      for (const auto& parameter : plain.model.parameters()) {
        EXPECT_TRUE(at::equal(parameter->value.grad(), again.model.parameters().at(parameter->name).value.grad()))
            << parameter->name << " " << dtype << " policy " << static_cast<int>(policy);
      }
    }
  }
}

TEST(Transformer, RecomputeGivesTheSameBitsWithLatentAttention) {
  ModelConfig config = tiny_latent_model();
  config.qkv_bias = false;
  config.moe.shared_width = 16;
  config.moe.shared_gate = true;
  const at::Tensor tokens = random_tokens(3, 5, config.vocabulary, 1);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    ModelFixture plain(config, dtype), again(config, dtype);
    plain.loss(tokens, tokens).backward();
    again.loss(tokens, tokens, RecomputePolicy::kFull).backward();
    for (const auto& parameter : plain.model.parameters()) {
      EXPECT_TRUE(at::equal(parameter->value.grad(), again.model.parameters().at(parameter->name).value.grad())) << parameter->name;
    }
  }
}

TEST(Transformer, RecomputeLosesNoGradientOfAnyBalanceLoss) {
  for (const BalanceLoss& loss : balance_losses()) {
    SCOPED_TRACE(loss.key);
    ModelConfig config = tiny_model();
    config.layers = 3;
    config.moe.balance = {.switch_loss = 0.0, .z_loss = 0.0};
    config.moe.balance.*loss.coefficient = 0.5;
    const auto plain = balance_gradients(config, RecomputePolicy::kNone);
    for (const char* name : {"layers.1.moe.router.weight", "layers.2.moe.router.weight", "embedding.weight"}) {
      EXPECT_GT(plain.at(name).abs().max().item<double>(), 1e-6) << name;
    }
    for (const RecomputePolicy policy : {RecomputePolicy::kMoe, RecomputePolicy::kFull}) {
      for (const auto& [name, gradient] : balance_gradients(config, policy)) {
        EXPECT_TRUE(at::equal(gradient, plain.at(name))) << name << " policy " << static_cast<int>(policy);
      }
    }
  }
}

TEST(Transformer, RecomputeRoutesNeverAnew) {
  // Between forward and backward the bias changes: a second routing would send every token elsewhere.
  ModelFixture plain(tiny_model(), at::kDouble);
  ModelFixture shaken(tiny_model(), at::kDouble);
  const at::Tensor tokens = random_tokens(3, 5, 11, 1);
  plain.loss(tokens, tokens, RecomputePolicy::kFull).backward();
  const at::Tensor loss = shaken.loss(tokens, tokens, RecomputePolicy::kFull);
  shaken.model.moe_layers()[0]->router().bias().copy_(at::arange(4, at::kDouble) * 10);
  loss.backward();
  for (const auto& parameter : plain.model.parameters()) {
    EXPECT_TRUE(at::equal(parameter->value.grad(), shaken.model.parameters().at(parameter->name).value.grad())) << parameter->name;
  }
}

TEST(Transformer, AnEmptyBatchHasNoLossAndZeroGradients) {
  for (const RecomputePolicy policy : {RecomputePolicy::kNone, RecomputePolicy::kMoe, RecomputePolicy::kFull}) {
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      ModelFixture fixture(tiny_model(), dtype);
      const at::Tensor none = at::zeros({0, 5}, at::kLong);
      const at::Tensor loss = fixture.loss(none, none, policy);
      EXPECT_EQ(loss.item<double>(), 0.0);
      loss.backward();
      for (const auto& parameter : fixture.model.parameters()) {
        ASSERT_TRUE(parameter->value.grad().defined()) << parameter->name;
        EXPECT_TRUE((parameter->value.grad() == 0).all().item<bool>()) << parameter->name;
      }
    }
  }
}

TEST(Transformer, APositionSeesNothingThatFollowsIt) {
  ModelFixture fixture(tiny_model(), at::kDouble);
  const at::NoGradGuard no_gradients;
  at::Tensor tokens = random_tokens(1, 5, 11, 1);
  const at::Tensor prefix = fixture.model.logits(tokens.narrow(1, 0, 3).contiguous(), {0, 3})[0][2];
  // The loss of position 2 alone, in a longer sequence whose end differs.
  at::Tensor targets = at::full({1, 5}, -1, at::kLong);
  targets[0][2] = 4;
  const double expected = -at::log_softmax(prefix, 0)[4].item<double>();
  for (const int64_t last : {0, 7}) {
    tokens[0][4] = last;
    EXPECT_NEAR(fixture.model.forward(tokens, targets, {0, tokens.numel()}).cross_entropy_sum.item<double>(), expected, 1e-12);
  }
}

// Recordings of routing and checks before a run go by these names without a model.
TEST(Transformer, ItsRoutersHaveTheNamesThatTheConfigurationForetells) {
  ModelConfig config = tiny_model();
  config.layers = 3;
  ModelFixture fixture(config, at::kDouble);
  std::vector<std::string> names;
  for (const MoELayer* layer : fixture.model.moe_layers()) names.push_back(layer->router().name());
  EXPECT_EQ(config.router_names(), names);
  EXPECT_EQ(names, (std::vector<std::string>{"layers.1.moe.router", "layers.2.moe.router"}));
}

TEST(Transformer, InitialValuesDependOnSeedAndNameAlone) {
  ModelFixture one(tiny_model(), at::kDouble);
  ModelConfig deeper = tiny_model();
  deeper.layers = 2;
  deeper.vocabulary = 13;
  ModelFixture other(deeper, at::kDouble);
  const std::string name = "layers.1.moe.experts.down.weight";
  EXPECT_TRUE(at::equal(one.model.parameters().at(name).value, other.model.parameters().at(name).value));
}

}  // namespace
}  // namespace pimoe
