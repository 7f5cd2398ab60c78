#include "base/text.h"
#include "model/generation.h"
#include "model/generation_fixture.h"
#include "model/spread_model.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

// Nine prompts: shares differ. Two: with 3 and 4 ranks some have none, and take part all the same.
TEST(GenerationOnRanks, IsThatOfOneRankInEveryLayoutAndExchange) {
  const int ranks = test_session().world()->size();
  for (const MoeExchange exchange : {MoeExchange::kRows, MoeExchange::kTokens, MoeExchange::kDirect}) {
    ModelFixture alone(spread_model(MoeExchange::kRows), at::kDouble);
    for (int64_t expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
      if (ranks % expert_parallel != 0) continue;
      SpreadModel spread(spread_model(exchange), expert_parallel);
      for (const size_t count : {size_t{2}, size_t{9}}) {
        auto prompts = ragged_prompts(9, 29);  // two longer than what the model sees
        prompts.resize(count);
        // Each ends somewhere else: ranks run out of sequences at different steps.
        const auto results = continue_prompts(spread.model, prompts, *spread.mesh, greedy(10, 2),
                                              [](size_t prompt, const std::vector<int32_t>& added) { return added.size() == 10 - prompt; });
        ASSERT_EQ(results.size(), count);
        for (size_t prompt = 0; prompt < count; ++prompt) {
          SCOPED_TRACE(concat("exchange ", static_cast<int>(exchange), " EP ", expert_parallel, " prompt ", prompt, " of ", count));
          EXPECT_EQ(results[prompt].tokens, plain_continuation(alone.model, prompts[prompt], 10 - static_cast<int64_t>(prompt)));
          EXPECT_EQ(results[prompt].ending, Ending::kStopped);
        }
      }
    }
  }
}

TEST(GenerationOnRanks, OfRoutersThatLookAtTheWholeSequenceIsThatOfOneRankToo) {
  for (const RouterKind kind : {RouterKind::kExpertChoice, RouterKind::kUniform}) {
    ModelConfig config = spread_model(MoeExchange::kRows);
    config.moe.router.kind = kind;
    ModelFixture alone(config, at::kDouble);
    SpreadModel spread(config, 0);
    const auto prompts = ragged_prompts(5, 29);
    const auto results = continue_prompts(spread.model, prompts, *spread.mesh, greedy(5, 4));
    for (size_t prompt = 0; prompt < prompts.size(); ++prompt) {
      EXPECT_EQ(results[prompt].tokens, plain_continuation(alone.model, prompts[prompt], 5)) << prompt;
    }
  }
}

}  // namespace
}  // namespace pimoe
