#include "model/generation.h"
#include "base/errors.h"
#include "base/text.h"
#include "model/generation_fixture.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

ModelConfig model_of(int64_t kv_heads, bool qk_norm) {
  ModelConfig config = tiny_model();
  config.width = 16;
  config.heads = 4;
  config.kv_heads = kv_heads;
  config.qk_norm = qk_norm;
  config.sequence_length = 9;
  config.vocabulary = 29;
  return config;
}

// Up to the last position that the model sees and three tokens further, where its window moves.
TEST(Generation, WithKeptKeysAndValuesIsThatOfWholeForwardPassesAtEveryPromptLength) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    for (const int64_t kv_heads : {1, 2, 4}) {
      for (const bool qk_norm : {false, true}) {
        ModelFixture fixture(model_of(kv_heads, qk_norm), dtype);
        const auto prompts = ragged_prompts(9, 29);
        for (const int64_t batch : {1, 4, 16}) {
          const auto results = continue_prompts(fixture.model, prompts, *fixture.mesh, greedy(12, batch));
          ASSERT_EQ(results.size(), prompts.size());
          for (size_t prompt = 0; prompt < prompts.size(); ++prompt) {
            SCOPED_TRACE(concat(dtype, " kv ", kv_heads, " qk_norm ", qk_norm, " batch ", batch, " prompt of ", prompts[prompt].size()));
            EXPECT_EQ(results[prompt].tokens, plain_continuation(fixture.model, prompts[prompt], 12));
            // The last token was drawn from the others.
            EXPECT_EQ(results[prompt].forgotten, std::max<int64_t>(0, static_cast<int64_t>(prompts[prompt].size()) + 11 - 9));
          }
        }
      }
    }
  }
}

TEST(Generation, OfLatentAttentionIsThatOfWholeForwardPasses) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    for (const int64_t value_width : {3, 6, 9}) {  // narrower than keys, as wide, wider
      ModelConfig config = tiny_latent_model();
      config.sequence_length = 9;
      config.vocabulary = 29;
      config.latent.value_width = value_width;
      ModelFixture fixture(config, dtype);
      const auto prompts = ragged_prompts(9, 29);
      for (const int64_t batch : {1, 4, 16}) {
        const auto results = continue_prompts(fixture.model, prompts, *fixture.mesh, greedy(12, batch));
        for (size_t prompt = 0; prompt < prompts.size(); ++prompt) {
          SCOPED_TRACE(concat(dtype, " values ", value_width, " batch ", batch, " prompt of ", prompts[prompt].size()));
          EXPECT_EQ(results[prompt].tokens, plain_continuation(fixture.model, prompts[prompt], 12));
        }
      }
    }
  }
  const ModelConfig config = tiny_latent_model();  // 2 layers, S 5, 2 heads of 6 and 3
  EXPECT_EQ(KeyValueCache::bytes_of_page(config, at::kFloat, 5), 2 * 5 * 2 * (6 + 3) * 4);
}

TEST(Generation, ScoresOfKeptTokensAreThoseOfAWholeForwardPass) {
  ModelFixture fixture(model_of(2, true), at::kDouble);
  const at::NoGradGuard no_gradients;
  const at::Tensor tokens = random_tokens(1, 9, 29, 7);
  const at::Tensor expected = fixture.model.logits(tokens, {0, 9})[0];
  const KeyValueCache cache(fixture.model.config(), at::kDouble, at::kCPU, 5, 4);
  for (int64_t position = 0; position < 9; ++position) {
    // Beside it another sequence begins anew each time, with a longer one, whose last three tokens are asked for.
    const at::Tensor both = at::cat({tokens[0].narrow(0, 0, 5), tokens[0].narrow(0, position, 1)});
    std::vector<RoutingRecord> routing;
    const at::Tensor scores = fixture.model.extend(both, {{{{4, 0}, 0, 5}, 3}, {{{2, 1, 3}, position, 1}}}, cache, 6, &routing);
    ASSERT_EQ(scores.size(0), 4);
    EXPECT_LT((scores[3] - expected[position]).abs().max().item<double>(), 1e-12) << position;
    EXPECT_LT((scores.narrow(0, 0, 3) - expected.narrow(0, 2, 3)).abs().max().item<double>(), 1e-12) << position;
    ASSERT_EQ(routing.size(), 1u);  // of two layers the first is dense
    EXPECT_EQ(routing[0].experts.size(0), 6);
  }
}

TEST(Generation, ScoresDoNotDependOnTheChunksThatAPromptComesIn) {
  ModelFixture fixture(model_of(2, true), at::kDouble);
  const at::NoGradGuard no_gradients;
  const at::Tensor tokens = random_tokens(1, 9, 29, 7)[0];
  const at::Tensor expected = fixture.model.logits(tokens.unsqueeze(0), {0, 9})[0];
  for (const std::vector<int64_t>& chunks : {std::vector<int64_t>{9}, {4, 5}, {1, 7, 1}, {3, 3, 3}}) {
    const KeyValueCache cache(fixture.model.config(), at::kDouble, at::kCPU, 3, 3);
    int64_t first = 0;
    for (const int64_t count : chunks) {
      const at::Tensor scores = fixture.model.extend(tokens.narrow(0, first, count), {{{{1, 0, 2}, first, count}, count}}, cache, count);
      EXPECT_LT((scores - expected.narrow(0, first, count)).abs().max().item<double>(), 1e-12) << first;
      first += count;
    }
  }
}

TEST(Generation, OfEveryRouterIsThatOfWholeForwardPasses) {
  for (const RouterKind kind :
       {RouterKind::kSoftmax, RouterKind::kSigmoid, RouterKind::kExpertChoice, RouterKind::kHash, RouterKind::kUniform}) {
    ModelConfig config = model_of(2, true);
    config.moe.router.kind = kind;
    config.moe.shared_width = 6;
    ModelFixture fixture(config, at::kDouble);
    const auto prompts = ragged_prompts(9, 29);
    const auto results = continue_prompts(fixture.model, prompts, *fixture.mesh, greedy(6, 4));
    for (size_t prompt = 0; prompt < prompts.size(); ++prompt) {
      SCOPED_TRACE(concat("router ", static_cast<int>(kind), " prompt of ", prompts[prompt].size()));
      EXPECT_EQ(results[prompt].tokens, plain_continuation(fixture.model, prompts[prompt], 6));
    }
  }
}

TEST(Generation, DrawsDependOnSeedPromptAndTokenAlone) {
  ModelFixture fixture(model_of(2, true), at::kDouble);
  const auto prompts = ragged_prompts(6, 29);
  GenerationOptions options;
  options.sampling = {.tokens = 8, .temperature = 1.0, .top_p = 1.0, .seed = 5};
  const auto draw = [&] {
    std::vector<std::vector<int32_t>> tokens;
    for (const Continuation& each : continue_prompts(fixture.model, prompts, *fixture.mesh, options)) tokens.push_back(each.tokens);
    return tokens;
  };
  const auto first = draw();
  options.batch = 2;
  EXPECT_EQ(draw(), first);
  options.cached = false;
  EXPECT_EQ(draw(), first);
  options.sampling.seed = 6;
  EXPECT_NE(draw(), first);
}

TEST(Generation, EndsAtTheStopTokenOrWhereTheCallerSaysSoAndGoesOnWithTheOthers) {
  ModelFixture fixture(model_of(2, true), at::kDouble);
  const auto prompts = ragged_prompts(5, 29);
  GenerationOptions options = greedy(8, 2);
  const auto whole = continue_prompts(fixture.model, prompts, *fixture.mesh, options);
  options.sampling.stop_token = whole[1].tokens[3];
  const auto stopped = continue_prompts(fixture.model, prompts, *fixture.mesh, options);
  const auto ended = continue_prompts(fixture.model, prompts, *fixture.mesh, greedy(8, 2),
                                      [](size_t prompt, const std::vector<int32_t>& added) { return added.size() == prompt + 1; });
  for (size_t prompt = 0; prompt < prompts.size(); ++prompt) {
    const auto& all = whole[prompt].tokens;
    const auto stop = std::find(all.begin(), all.end(), options.sampling.stop_token);
    EXPECT_EQ(stopped[prompt].tokens, std::vector<int32_t>(all.begin(), stop)) << prompt;
    EXPECT_EQ(stopped[prompt].ending, stop == all.end() ? Ending::kTokens : Ending::kStopToken) << prompt;
    EXPECT_EQ(ended[prompt].tokens, std::vector<int32_t>(all.begin(), all.begin() + static_cast<int64_t>(prompt) + 1));
    EXPECT_EQ(ended[prompt].ending, Ending::kStopped);
  }
  EXPECT_EQ(stopped[1].ending, Ending::kStopToken);
}

TEST(Generation, RefusesTokensBehindTheLastPositionOrOtherThanTheirParts) {
  ModelFixture fixture(model_of(2, true), at::kDouble);
  const KeyValueCache cache(fixture.model.config(), at::kDouble, at::kCPU, 2, 8);
  const at::NoGradGuard no_gradients;
  EXPECT_THROW(fixture.model.extend(at::zeros({10}, at::kLong), {{{{0, 1}, 0, 10}}}, cache, 10), ShapeError);
  EXPECT_THROW(fixture.model.extend(at::zeros({3}, at::kLong), {{{{0, 1}, 0, 2}}}, cache, 3), ShapeError);
  EXPECT_THROW(fixture.model.extend(at::zeros({2}, at::kLong), {{{{0, 1}, 0, 2}, 3}}, cache, 2), ShapeError);
}

}  // namespace
}  // namespace pimoe
