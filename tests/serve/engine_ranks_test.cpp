#include "base/text.h"
#include "model/spread_model.h"
#include "serve/engine.h"
#include "serve/engine_fixture.h"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <thread>

namespace pimoe {
namespace {

ModelConfig config_of(MoeExchange exchange) {
  ModelConfig config = served_model_config();
  config.moe.experts = 12;
  config.moe.exchange = exchange;
  return config;
}

/// On rank 0 `serve` with an engine over all ranks; the others follow it.
void with_engine(const SpreadModel& spread, const EngineLimits& limits, const ModelLoader& loader,
                 const std::function<void(Engine&)>& serve) {
  Engine engine(served(spread), letter_texts(), limits, loader);
  if (spread.mesh->rank() == 0) {
    serve(engine);
  } else {
    engine.follow();
  }
}

// More requests than ranks and fewer, with rests between, in every layout and exchange.
TEST(EngineOnRanks, GivesEachTextThatItHasOnOneRank) {
  const int ranks = test_session().world()->size();
  for (const MoeExchange exchange : {MoeExchange::kRows, MoeExchange::kTokens, MoeExchange::kDirect}) {
    const ModelFixture alone_model(config_of(MoeExchange::kRows), at::kDouble);
    for (int expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
      if (ranks % expert_parallel != 0) continue;
      const SpreadModel spread(config_of(exchange), expert_parallel);
      EngineLimits limits;
      limits.page_tokens = 4;
      limits.prefill_chunk = 5;
      limits.max_batch = 6;
      with_engine(spread, limits, nullptr, [&](Engine& engine) {
        std::mt19937 random(17);
        for (const size_t count : {1, 9, 2}) {
          Heard heard;
          std::vector<GenerationRequest> requests;
          for (size_t index = 0; index < count; ++index) {
            requests.push_back(greedy_request(random_prompt(random, 20), 1 + static_cast<int64_t>(random() % 9)));
            requests.back().top_logprobs = 1;
            requests.back().trace_experts = index % 2 == 0;
            engine.submit(requests.back(), heard.listener(index));
          }
          heard.wait_for(count);
          for (size_t index = 0; index < count; ++index) {
            SCOPED_TRACE(concat("exchange ", static_cast<int>(exchange), " EP ", expert_parallel, " request ", index, " of ", count));
            EXPECT_EQ(heard[index].added, alone(alone_model.model, *alone_model.mesh, requests[index]).tokens);
            for (const GeneratedToken& token : heard[index].tokens) {
              EXPECT_EQ(token.token, token.top[0].first);
              EXPECT_EQ(*token.logprob, token.top[0].second);
              ASSERT_EQ(token.experts.size(), index % 2 == 0 ? 1u : 0u);
            }
          }
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
        engine.drain();
        EXPECT_EQ(engine.status().free_pages, engine.status().pages);
      });
    }
  }
}

TEST(EngineOnRanks, AReloadIsMadeByAllAndOneRanksTroubleIsEveryones) {
  const SpreadModel before(config_of(MoeExchange::kRows), 0);
  SpreadModel after(config_of(MoeExchange::kRows), 0);
  {
    const at::NoGradGuard no_gradients;
    for (const auto& parameter : after.model.parameters()) parameter->value.neg_();
  }
  const int last = before.mesh->size() - 1;
  ModelFixture alone_model(config_of(MoeExchange::kRows), at::kDouble);
  const ModelLoader loader = [&](const std::filesystem::path& checkpoint) {
    if (checkpoint == "damaged" && before.mesh->rank() == last) throw CheckpointError("a part is damaged");
    return served(after);
  };
  with_engine(before, {}, loader, [&](Engine& engine) {
    const GenerationRequest request = greedy_request({3, 7, 1}, 6);
    Heard heard;
    EXPECT_THROW(engine.reload("damaged"), CheckpointError);
    engine.submit(request, heard.listener(0));
    heard.wait_for(1);
    EXPECT_EQ(heard[0].added, alone(alone_model.model, *alone_model.mesh, request).tokens);
    engine.reload("good");
    engine.submit(request, heard.listener(1));
    heard.wait_for(2);
    const at::NoGradGuard no_gradients;
    for (const auto& parameter : alone_model.model.parameters()) parameter->value.neg_();
    EXPECT_EQ(heard[1].added, alone(alone_model.model, *alone_model.mesh, request).tokens);
  });
}

TEST(EngineOnRanks, RestsWithoutWorkOnAnyRank) {
  const SpreadModel spread(config_of(MoeExchange::kRows), 0);
  const std::clock_t begun = std::clock();
  with_engine(spread, {}, nullptr, [&](Engine& engine) {
    Heard heard;
    std::this_thread::sleep_for(std::chrono::seconds(3));
    engine.submit(greedy_request({1}, 2), heard.listener(0));
    heard.wait_for(1);
  });
  // Of three seconds a rank that polls would use all.
  EXPECT_LT(static_cast<double>(std::clock() - begun) / CLOCKS_PER_SEC, 1.0);
}

}  // namespace
}  // namespace pimoe
