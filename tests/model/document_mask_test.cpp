#include "model/model_fixture.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace pimoe {
namespace {

/// Two rows of nine tokens: documents of 4, 1 and 4, and of 9 tokens.
const std::vector<int32_t>& starts() {
  static const std::vector<int32_t> of_rows = {0, 4, 5, 9, 18};
  return of_rows;
}

BatchContext packed(int64_t tokens) {
  BatchContext context(0, tokens);
  context.documents.emplace(at::tensor(starts(), at::kInt), at::kCPU);
  return context;
}

/// The tokens after each, and -1 where the next is another document's.
at::Tensor targets_of(const at::Tensor& rows) {
  at::Tensor targets = rows.narrow(1, 1, 9).clone();
  targets[0][3] = -1;
  targets[0][4] = -1;
  return targets;
}

struct Result {
  double loss = 0.0;
  std::map<std::string, at::Tensor> gradients;
};

Result result_of(ModelFixture& fixture, const std::function<at::Tensor()>& loss) {
  Result result;
  const at::Tensor sum = loss();
  sum.backward();
  result.loss = sum.item<double>();
  for (const auto& parameter : fixture.model.parameters()) {
    result.gradients[parameter->name] = parameter->value.grad().clone();
    parameter->value.mutable_grad() = at::Tensor();
  }
  return result;
}

struct Kind {
  std::string name;
  ModelConfig config;
};

std::vector<Kind> kinds() {
  std::vector<Kind> all;
  const auto add = [&](const std::string& name, const ModelConfig& config) {
    all.push_back({name, config});
    all.back().config.sequence_length = 9;
  };
  add("grouped, norms of heads", tiny_model());
  ModelConfig biased = tiny_model();
  biased.qk_norm = false;
  biased.qkv_bias = true;
  add("biases", biased);
  ModelConfig together = tiny_model();
  together.qk_norm_over = QkNormOver::kProjection;
  add("norms of projections", together);
  add("latent, yarn", tiny_latent_model());
  ModelConfig plain_latent = tiny_latent_model();
  plain_latent.latent.query_rank = 0;
  plain_latent.latent.value_width = 9;
  plain_latent.latent.interleaved = false;
  plain_latent.rotary = {};
  add("latent, wide values", plain_latent);
  const std::vector<std::pair<std::string, RotaryConfig>> scalings = {
      {"linear", {.scaling = RotaryScaling::kLinear, .factor = 3}},
      {"dynamic", {.scaling = RotaryScaling::kDynamic, .factor = 2, .original_length = 9}},
      {"yarn", {.scaling = RotaryScaling::kYarn, .factor = 4, .original_length = 4}},
      {"llama3", {.scaling = RotaryScaling::kLlama3, .factor = 8, .original_length = 20}}};
  for (const auto& [name, rotary] : scalings) {
    ModelConfig config = tiny_model();
    config.rotary = rotary;
    add(name, config);
  }
  return all;
}

TEST(DocumentMask, APackedSampleHasTheLossAndTheGradientsOfItsDocumentsEachAlone) {
  for (const Kind& kind : kinds()) {
    for (const RecomputePolicy policy : {RecomputePolicy::kNone, RecomputePolicy::kMoe, RecomputePolicy::kFull}) {
      SCOPED_TRACE(kind.name + " policy " + std::to_string(static_cast<int>(policy)));
      ModelFixture fixture(kind.config, at::kDouble);
      const at::Tensor rows = random_tokens(2, 10, kind.config.vocabulary, 7);
      const at::Tensor tokens = rows.narrow(1, 0, 9).contiguous(), targets = targets_of(rows);
      const Result together =
          result_of(fixture, [&] { return fixture.model.forward(tokens, targets, packed(18), policy).cross_entropy_sum; });
      const Result alone = result_of(fixture, [&] {
        at::Tensor sum = at::zeros({}, at::kDouble);
        for (size_t document = 0; document + 1 < starts().size(); ++document) {
          const int64_t begin = starts()[document], count = starts()[document + 1] - begin;
          const auto of = [&](const at::Tensor& all) { return all.reshape({1, -1}).narrow(1, begin, count).contiguous(); };
          sum = sum + fixture.model.forward(of(tokens), of(targets), {begin, 18}).cross_entropy_sum;
        }
        return sum;
      });
      EXPECT_NEAR(together.loss, alone.loss, 1e-12 * alone.loss);
      for (const auto& [name, gradient] : alone.gradients) {
        const double most = gradient.abs().max().item<double>();
        EXPECT_LE((together.gradients.at(name) - gradient).abs().max().item<double>(), 1e-12 * (1 + most)) << name;
      }
      const Result unmasked = result_of(fixture, [&] { return fixture.model.forward(tokens, targets, {0, 18}, policy).cross_entropy_sum; });
      EXPECT_GT(std::abs(unmasked.loss - alone.loss), 1e-6) << "and without it another";
    }
  }
}

TEST(DocumentMask, RecomputeGivesTheSameBits) {
  for (const ModelConfig& given : {tiny_model(), tiny_latent_model()}) {
    ModelConfig config = given;
    config.sequence_length = 9;
    const at::Tensor rows = random_tokens(2, 10, config.vocabulary, 7);
    std::map<std::string, at::Tensor> expected;
    for (const RecomputePolicy policy : {RecomputePolicy::kNone, RecomputePolicy::kMoe, RecomputePolicy::kFull}) {
      ModelFixture fixture(config, at::kFloat);
      const Result result = result_of(fixture, [&] {
        return fixture.model.forward(rows.narrow(1, 0, 9).contiguous(), targets_of(rows), packed(18), policy).cross_entropy_sum;
      });
      if (expected.empty()) expected = result.gradients;
      for (const auto& [name, gradient] : expected) EXPECT_TRUE(at::equal(gradient, result.gradients.at(name))) << name;
    }
  }
}

TEST(DocumentMask, ADocumentARowIsNoMask) {
  for (const ModelConfig& given : {tiny_model(), tiny_latent_model()}) {
    ModelFixture fixture(given, at::kDouble);
    const at::Tensor tokens = random_tokens(3, 5, given.vocabulary, 1);
    BatchContext context(0, 15);
    context.documents.emplace(at::tensor({0, 5, 10, 15}, at::kInt), at::kCPU);
    const double plain = fixture.model.forward(tokens, tokens, {0, 15}).cross_entropy_sum.item<double>();
    EXPECT_NEAR(fixture.model.forward(tokens, tokens, context).cross_entropy_sum.item<double>(), plain, 1e-12);
  }
}

TEST(DocumentMask, AnEmptyBatchHasNoLossAndZeroGradients) {
  for (const at::ScalarType dtype : {at::kDouble, at::kBFloat16}) {
    for (const RecomputePolicy policy : {RecomputePolicy::kNone, RecomputePolicy::kFull}) {
      ModelFixture fixture(tiny_model(), dtype);
      const at::Tensor none = at::zeros({0, 5}, at::kLong);
      BatchContext context(0, 0);
      context.documents.emplace(at::zeros({1}, at::kInt), at::kCPU);
      const Result result = result_of(fixture, [&] { return fixture.model.forward(none, none, context, policy).cross_entropy_sum; });
      EXPECT_EQ(result.loss, 0.0);
      for (const auto& [name, gradient] : result.gradients) EXPECT_TRUE((gradient == 0).all().item<bool>()) << name;
    }
  }
}

}  // namespace
}  // namespace pimoe
