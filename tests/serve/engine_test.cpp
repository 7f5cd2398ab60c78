#include "serve/engine.h"
#include "base/text.h"
#include "model/generation_fixture.h"
#include "model/key_value_cache.h"
#include "serve/engine_fixture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <numeric>

namespace pimoe {
namespace {

/// When a request comes: so many updates of all requests after the first.
struct Arrival {
  GenerationRequest request;
  size_t updates = 0;
  size_t cancelled_after = 0;  ///< tokens; 0: is not cancelled
};

/// Requests of one schedule; a third of them begin as others do.
std::vector<Arrival> random_arrivals(std::mt19937& random) {
  std::vector<Arrival> arrivals;
  const size_t count = 2 + random() % 7;
  for (size_t index = 0; index < count; ++index) {
    Arrival arrival;
    GenerationRequest& request = arrival.request;
    request = greedy_request(random_prompt(random, 20), 1 + static_cast<int64_t>(random() % 9));
    if (index > 0 && random() % 3 == 0) {
      const std::vector<int64_t>& other = arrivals[random() % index].request.prompt;
      std::vector<int64_t> prompt(other.begin(), other.begin() + static_cast<int64_t>(random() % (other.size() + 1)));
      prompt.insert(prompt.end(), request.prompt.begin(), request.prompt.end());
      prompt.resize(std::min<size_t>(prompt.size(), 22));
      request.prompt = prompt;
    }
    if (random() % 4 == 0) {
      request.sampling.temperature = 0.9;
      request.sampling.top_k = static_cast<int64_t>(random() % 6);
      request.sampling.repetition_penalty = random() % 2 == 0 ? 1.0 : 1.3;
      request.sampling.seed = random();
    }
    if (random() % 5 == 0) request.sampling.stop_token = static_cast<int32_t>(random() % 29);
    request.priority = static_cast<int>(random() % 3);
    arrival.updates = index == 0 ? 0 : random() % 25;
    if (random() % 6 == 0) arrival.cancelled_after = 1 + random() % 3;
    arrivals.push_back(arrival);
  }
  return arrivals;
}

EngineLimits random_limits(std::mt19937& random, const Transformer& model) {
  EngineLimits limits;
  limits.page_tokens = std::vector<int64_t>{1, 3, 8, 16, 40}[random() % 5];
  limits.prefill_chunk = std::vector<int64_t>{1, 2, 5, 64}[random() % 4];
  limits.max_batch = 1 + static_cast<int64_t>(random() % 8);
  limits.prefix_cache = random() % 4 != 0;
  // From room for one text of the model's length to room for all.
  const int64_t most = KeyValueCache::pages_for(32, limits.page_tokens);
  limits.memory_budget_bytes = KeyValueCache::bytes_of_page(model.config(), model.dtype(), limits.page_tokens) *
                               (most + static_cast<int64_t>(random() % static_cast<uint32_t>(2 * most)));
  return limits;
}

/// Serves one schedule, and compares each text with what `generate` makes of it alone.
void serve_schedule(const ModelFixture& fixture, uint32_t seed) {
  SCOPED_TRACE(concat("seed ", seed));
  std::mt19937 random(seed);
  const std::vector<Arrival> arrivals = random_arrivals(random);
  Engine engine(served(fixture), letter_texts(), random_limits(random, fixture.model));
  Heard heard;
  std::mutex mutex;
  std::map<size_t, uint64_t> ids;
  std::vector<bool> sent(arrivals.size());
  size_t updates = 0, running = 0;
  // Requests come between steps, at the update that they wait for, or when nothing else would make one.
  std::function<void()> send_due = [&] {
    for (size_t index = 0; index < arrivals.size(); ++index) {
      if (sent[index] || (arrivals[index].updates > updates && running > 0)) continue;
      sent[index] = true;
      ++running;
      ids[index] = engine.submit(arrivals[index].request, heard.listener(index, [&, index](const Heard::Text& text) {
        const std::lock_guard lock(mutex);
        ++updates;
        if (text.ending) --running;
        const size_t limit = arrivals[index].cancelled_after;
        if (limit > 0 && text.added.size() == limit && !text.ending) engine.cancel(ids[index]);
        send_due();
      }));
    }
  };
  {
    const std::lock_guard lock(mutex);
    send_due();
  }
  heard.wait_for(arrivals.size());
  engine.drain();

  for (size_t index = 0; index < arrivals.size(); ++index) {
    SCOPED_TRACE(concat("request ", index));
    const Heard::Text text = heard[index];
    const Continuation expected = alone(fixture.model, *fixture.mesh, arrivals[index].request);
    if (text.ending == GenerationEnding::kCancelled) {
      ASSERT_EQ(text.added.size(), arrivals[index].cancelled_after);
      EXPECT_EQ(text.added,
                std::vector<int32_t>(expected.tokens.begin(), expected.tokens.begin() + static_cast<int64_t>(text.added.size())));
      continue;
    }
    EXPECT_EQ(text.added, expected.tokens);
    EXPECT_EQ(text.ending, expected.ending == Ending::kStopToken ? GenerationEnding::kEndOfDocument : GenerationEnding::kLength);
  }
  const EngineStatus status = engine.status();
  EXPECT_EQ(status.running, 0);
  EXPECT_EQ(status.waiting, 0);
  EXPECT_EQ(status.free_pages, status.pages);
  EXPECT_EQ(status.finished + status.cancelled, arrivals.size());
}

// PIMOE_ALL_CASES=1: a thousand schedules.
TEST(Engine, OfAHundredSchedulesGivesEachTextThatItHasAlone) {
  const uint32_t schedules = std::getenv("PIMOE_ALL_CASES") != nullptr ? 1000 : 100;
  const ModelFixture exact(served_model_config(), at::kDouble), usual(served_model_config(), at::kFloat);
  for (uint32_t seed = 0; seed < schedules && !testing::Test::HasFailure(); ++seed) serve_schedule(seed % 2 == 0 ? exact : usual, seed);
}

// Scores are not rounded to bfloat16, which would make many of them equal.
TEST(Engine, InBfloat16GivesEachTextThatItHasAloneToo) {
  const ModelFixture fixture(served_model_config(), at::kBFloat16);
  for (uint32_t seed = 0; seed < 50 && !testing::Test::HasFailure(); ++seed) serve_schedule(fixture, 9000 + seed);
}

TEST(Engine, ServesLatentAttentionAndEveryRouterThatGoesByTheToken) {
  std::vector<ModelConfig> configs;
  configs.push_back(tiny_latent_model());
  configs.back().sequence_length = 32;
  configs.back().vocabulary = 29;
  for (const RouterKind kind : {RouterKind::kSigmoid, RouterKind::kHash}) {
    configs.push_back(served_model_config());
    configs.back().moe.router.kind = kind;
    configs.back().moe.shared_width = 6;
  }
  configs.push_back(served_model_config());
  configs.back().moe.experts = 0;
  for (const ModelConfig& config : configs) {
    const ModelFixture fixture(config, at::kDouble);
    for (uint32_t seed = 0; seed < 20; ++seed) serve_schedule(fixture, 5000 + seed);
  }
}

TEST(Engine, RefusesModelsWhoseRoutersGoByTheBatch) {
  for (const RouterKind kind : {RouterKind::kExpertChoice, RouterKind::kUniform}) {
    ModelConfig config = served_model_config();
    config.moe.router.kind = kind;
    const ModelFixture fixture(config, at::kDouble);
    EXPECT_THROW(Engine(served(fixture), letter_texts(), {}), ConfigError);
  }
}

TEST(Engine, ScoresArePromptAndNewTokensLogProbabilitiesOfTheWholeText) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  const std::vector<int64_t> prompt = {3, 7, 7, 1, 20, 4, 9};
  for (const int64_t chunk : {1, 3, 64}) {
    for (const int64_t max_tokens : {0, 5}) {
      EngineLimits limits;
      limits.prefill_chunk = chunk;
      limits.page_tokens = 2;
      Engine engine(served(fixture), letter_texts(), limits);
      // The same before, so that its pages would be there.
      GenerationRequest request = greedy_request(prompt, max_tokens);
      request.top_logprobs = 3;
      request.score_prompt = true;
      Heard heard;
      for (const size_t index : {0, 1}) {
        engine.submit(request, heard.listener(index));
        heard.wait_for(index + 1);
      }
      const Heard::Text text = heard[1];
      ASSERT_EQ(text.tokens.size(), prompt.size() + static_cast<size_t>(max_tokens));
      std::vector<int64_t> all;
      for (const GeneratedToken& token : text.tokens) all.push_back(token.token);
      const at::NoGradGuard no_gradients;
      const auto count = static_cast<int64_t>(all.size());
      const at::Tensor logprobs = at::log_softmax(fixture.model.logits(at::tensor(all, at::kLong).view({1, count}), {0, count})[0], 1);
      for (size_t at = 0; at < all.size(); ++at) {
        SCOPED_TRACE(concat("chunk ", chunk, " token ", at));
        EXPECT_EQ(text.tokens[at].of_prompt, at < prompt.size());
        EXPECT_EQ(text.tokens[at].logprob.has_value(), at > 0);
        if (at == 0) continue;
        const at::Tensor row = logprobs[static_cast<int64_t>(at) - 1];
        EXPECT_NEAR(*text.tokens[at].logprob, row[all[at]].item<double>(), 1e-11);
        ASSERT_EQ(text.tokens[at].top.size(), 3u);
        EXPECT_EQ(text.tokens[at].top[0].first, row.argmax().item<int64_t>());
        EXPECT_NEAR(text.tokens[at].top[0].second, row.max().item<double>(), 1e-11);
        if (!text.tokens[at].of_prompt) {  // greedy: the same bits
          EXPECT_EQ(text.tokens[at].token, text.tokens[at].top[0].first);
          EXPECT_EQ(*text.tokens[at].logprob, text.tokens[at].top[0].second);
        }
      }
    }
  }
}

TEST(Engine, APromptOfNoTokensOrOneAndNoNewOnesEndAtOnce) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  Engine engine(served(fixture), letter_texts(), {});
  Heard heard;
  GenerationRequest request = greedy_request({5}, 0);
  request.top_logprobs = 0;
  request.score_prompt = true;
  engine.submit(request, heard.listener(0));
  engine.submit(greedy_request({5, 6}, 0), heard.listener(1));
  engine.submit(greedy_request({}, 3), heard.listener(2));
  heard.wait_for(3);
  ASSERT_EQ(heard[0].tokens.size(), 1u);
  EXPECT_FALSE(heard[0].tokens[0].logprob);
  EXPECT_EQ(heard[0].tokens[0].text, "f");
  EXPECT_EQ(heard[0].ending, GenerationEnding::kLength);
  EXPECT_TRUE(heard[1].tokens.empty());
  EXPECT_EQ(heard[2].added, alone(fixture.model, *fixture.mesh, greedy_request({}, 3)).tokens);
}

TEST(Engine, TracesTheExpertsThatEachTokenWasPredictedBy) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  Engine engine(served(fixture), letter_texts(), {});
  Heard heard;
  GenerationRequest request = greedy_request({3, 7, 1}, 4);
  request.trace_experts = true;
  request.top_logprobs = 0;
  request.score_prompt = true;
  engine.submit(request, heard.listener(0));
  engine.submit(greedy_request({1, 2}, 6), heard.listener(1));
  heard.wait_for(2);
  const Heard::Text text = heard[0];
  ASSERT_EQ(text.tokens.size(), 7u);
  std::vector<int64_t> all;
  for (const GeneratedToken& token : text.tokens) all.push_back(token.token);
  // A pass over the whole text, of which the last token is not computed.
  const at::NoGradGuard no_gradients;
  const KeyValueCache cache(fixture.model.config(), at::kDouble, at::kCPU, 1, 32);
  std::vector<RoutingRecord> routing;
  fixture.model.extend(at::tensor(std::vector<int64_t>(all.begin(), all.end() - 1), at::kLong), {{{{0}, 0, 6}}}, cache, 6, &routing);
  EXPECT_TRUE(text.tokens[0].experts.empty());
  for (size_t at = 1; at < all.size(); ++at) {
    ASSERT_EQ(text.tokens[at].experts.size(), 1u);  // of two layers one has experts
    const at::Tensor expected = routing[0].experts[static_cast<int64_t>(at) - 1];
    EXPECT_EQ(text.tokens[at].experts[0], (std::vector<int32_t>{expected[0].item<int32_t>(), expected[1].item<int32_t>()}));
  }
  EXPECT_TRUE(heard[1].tokens[0].experts.empty());
}

TEST(Engine, ExpertUtilizationIsTheShareOfAllSlots) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  Engine engine(served(fixture), letter_texts(), {});
  Heard heard;
  engine.submit(greedy_request({3, 7, 1}, 4), heard.listener(0));
  heard.wait_for(1);
  EngineStatus status;
  double sum = 0.0;
  while (sum == 0.0) {  // known when the engine rests
    status = engine.status();
    sum = 0.0;
    for (const double share : status.expert_shares) sum += share;
  }
  EXPECT_EQ(status.expert_shares.size(), 4u);
  EXPECT_EQ(std::accumulate(status.expert_slots.begin(), status.expert_slots.end(), int64_t{0}), 12);
  EXPECT_NEAR(sum, 1.0, 1e-12);
  for (const double share : status.expert_shares) EXPECT_NEAR(share * 12, std::round(share * 12), 1e-9);  // 6 tokens, 2 choices
}

TEST(Engine, APromptThatBeginsAsAnEarlierTextIsComputedFromItsEndOn) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  EngineLimits limits;
  limits.page_tokens = 2;
  Engine engine(served(fixture), letter_texts(), limits);
  Heard heard;
  const GenerationRequest first = greedy_request({3, 7, 1, 4, 4}, 6);
  engine.submit(first, heard.listener(0));
  heard.wait_for(1);
  EXPECT_EQ(engine.status().prefix_hit_tokens, 0u);
  GenerationRequest next = greedy_request({3, 7, 1, 4, 4}, 5);  // a conversation that goes on
  for (const int32_t token : heard[0].added) next.prompt.push_back(token);
  next.prompt.push_back(11);
  engine.submit(next, heard.listener(1));
  heard.wait_for(2);
  EXPECT_EQ(engine.status().prefix_hit_tokens, 10u);  // 11 were there, and the last of them was drawn alone
  EXPECT_EQ(heard[1].added, alone(fixture.model, *fixture.mesh, next).tokens);
}

TEST(Engine, StopTextsAreCutOffAndEndAText) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  TokenTexts letters = letter_texts();
  letters.texts.resize(26);
  letters.texts.insert(letters.texts.end(), {"A", "B", "C"});
  Engine engine(served(fixture), letters, {});
  Heard heard;
  engine.submit(greedy_request({3, 7, 1}, 12), heard.listener(0));
  heard.wait_for(1);
  const std::string whole = heard[0].text;
  ASSERT_EQ(heard[0].added.size(), 12u);
  for (size_t from = 0; from < whole.size(); ++from) {
    GenerationRequest request = greedy_request({3, 7, 1}, 12);
    request.stop = {whole.substr(from, 2), "never"};
    engine.submit(request, heard.listener(1 + from));
    heard.wait_for(2 + from);
    const Heard::Text text = heard[1 + from];
    EXPECT_EQ(text.text, whole.substr(0, whole.find(request.stop[0]))) << from;
    EXPECT_EQ(text.ending, GenerationEnding::kStop) << from;
  }
}

}  // namespace
}  // namespace pimoe
