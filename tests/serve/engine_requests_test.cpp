/// Who is taken and who refused, in which order, and what becomes of requests when an engine ends or fails.

#include "base/errors.h"
#include "model/generation_fixture.h"
#include "model/key_value_cache.h"
#include "serve/engine.h"
#include "serve/engine_fixture.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <exception>
#include <functional>
#include <future>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace pimoe {
namespace {

TEST(Engine, HigherPriorityGoesFirstAndEqualOnesInOrderOfArrival) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  EngineLimits limits;
  limits.max_batch = 1;
  Engine engine(served(fixture), letter_texts(), limits);
  Heard heard;
  std::mutex mutex;
  std::vector<size_t> order;
  bool sent = false;
  const auto listener = [&](size_t index) {
    return heard.listener(index, [&, index](const Heard::Text& text) {
      if (!text.ending) return;
      const std::lock_guard lock(mutex);
      order.push_back(index);
    });
  };
  engine.submit(greedy_request({1}, 4), heard.listener(0, [&](const Heard::Text& /*text*/) {
    if (sent) return;
    sent = true;
    for (const auto& [index, priority] : {std::pair{1, 0}, {2, 5}, {3, 0}, {4, 5}, {5, -1}}) {
      GenerationRequest request = greedy_request({2}, 2);
      request.priority = priority;
      engine.submit(request, listener(static_cast<size_t>(index)));
    }
  }));
  heard.wait_for(6);
  EXPECT_EQ(order, (std::vector<size_t>{2, 4, 1, 3, 5}));
}

TEST(Engine, RefusesWhatCanNeverFitOrIsNoRequest) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  EngineLimits limits;
  limits.page_tokens = 4;
  limits.memory_budget_bytes = 3 * KeyValueCache::bytes_of_page(fixture.model.config(), at::kDouble, 4);
  Engine engine(served(fixture), letter_texts(), limits);
  const auto refused = [&](GenerationRequest request) {
    EXPECT_THROW(engine.submit(std::move(request), [](const GenerationUpdate&) { ADD_FAILURE(); }), ShapeError);
  };
  refused(greedy_request({1, 2, 3}, 30));  // beyond 32 positions
  refused(greedy_request({1, 2, 3}, std::numeric_limits<int64_t>::max()));
  refused(greedy_request({1, 2, 3}, 11));  // 13 positions: beyond the budget's 12
  refused(greedy_request({1, 29}, 1));
  refused(greedy_request({1, -1}, 1));
  refused(greedy_request({1}, -1));
  const auto changed = [](const std::function<void(GenerationRequest&)>& change) {
    GenerationRequest request = greedy_request({1}, 1);
    change(request);
    return request;
  };
  refused(changed([](GenerationRequest& request) { request.stop = {""}; }));
  refused(changed([](GenerationRequest& request) { request.top_logprobs = -1; }));
  refused(changed([](GenerationRequest& request) { request.sampling.temperature = std::nan(""); }));
  refused(changed([](GenerationRequest& request) { request.sampling.top_p = 1.5; }));
  refused(changed([](GenerationRequest& request) { request.sampling.repetition_penalty = 0; }));
  refused(changed([](GenerationRequest& request) { request.sampling.top_k = -1; }));
  Heard heard;
  engine.submit(greedy_request({1, 2, 3}, 10), heard.listener(0));  // 12 positions
  heard.wait_for(1);
  EXPECT_EQ(heard[0].added.size(), 10u);
  for (const auto& change : std::vector<std::function<void(EngineLimits&)>>{
           [](EngineLimits& of) { of.max_batch = 0; }, [](EngineLimits& of) { of.prefill_chunk = 0; },
           [](EngineLimits& of) { of.page_tokens = 0; }, [](EngineLimits& of) { of.max_queue = 0; },
           [](EngineLimits& of) { of.memory_budget_bytes = 1; }, [](EngineLimits& of) { of.memory_budget_bytes = -1; }}) {
    EngineLimits wrong;
    change(wrong);
    EXPECT_THROW(Engine(served(fixture), letter_texts(), wrong), ConfigError);
  }
}

TEST(Engine, AFullQueueRefusesAndADrainedEngineTakesNoMore) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  EngineLimits limits;
  limits.max_batch = 1;
  limits.max_queue = 2;
  Engine engine(served(fixture), letter_texts(), limits);
  Heard heard;
  std::atomic<int> refused = 0;
  std::atomic<bool> sent = false;
  engine.submit(greedy_request({1}, 20), heard.listener(0, [&](const Heard::Text& /*text*/) {
    if (sent) return;
    for (const size_t index : {1, 2, 3}) {
      try {
        engine.submit(greedy_request({2}, 2), heard.listener(index));
      } catch (const Engine::QueueFull&) {
        ++refused;
      }
    }
    EXPECT_EQ(engine.status().waiting, 2);
    EXPECT_EQ(engine.status().running, 1);
    sent = true;  // the drain may begin
  }));
  while (!sent) std::this_thread::yield();
  engine.drain();
  EXPECT_EQ(refused, 1);
  EXPECT_EQ(heard[0].added.size(), 20u);
  EXPECT_EQ(heard[2].added.size(), 2u);
  EXPECT_THROW(engine.submit(greedy_request({1}, 1), heard.listener(9)), Engine::Closed);
}

// 16 may wait, the last two of them for who has fewer than two.
TEST(Engine, NoClientFillsTheQueueForTheOthers) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  EngineLimits limits;
  limits.max_batch = 1;
  limits.max_queue = 16;
  limits.has_several_clients = true;
  Engine engine(served(fixture), letter_texts(), limits);
  Heard heard;
  std::vector<size_t> taken(3);
  std::atomic<bool> sent = false;
  engine.submit(greedy_request({1}, 2), heard.listener(0, [&](const Heard::Text& /*text*/) {
    if (sent) return;
    size_t next = 1;
    for (const size_t client : {0, 1, 2}) {
      for (int count = 0; count < 20; ++count) {
        GenerationRequest request = greedy_request({2}, 1);
        request.client = client;
        try {
          engine.submit(request, heard.listener(next));
          ++taken[client];
          ++next;
        } catch (const Engine::QueueFull&) {
          continue;
        }
      }
    }
    sent = true;
  }));
  while (!sent) std::this_thread::yield();
  engine.drain();
  EXPECT_EQ(taken, (std::vector<size_t>{14, 2, 0}));
  EXPECT_EQ(engine.status().waiting, 0);
}

TEST(Engine, CancelsAllThatItHasWhenAskedAndTellsThem) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  EngineLimits limits;
  limits.max_batch = 1;
  Engine engine(served(fixture), letter_texts(), limits);
  Heard heard;
  std::atomic<bool> begun = false;
  engine.submit(greedy_request({1}, 20), heard.listener(0, [&](const Heard::Text& /*text*/) {
    if (begun) return;
    engine.submit(greedy_request({2}, 20), heard.listener(1));  // waits
    engine.cancel_all();
    begun = true;  // the drain may begin
  }));
  while (!begun) std::this_thread::yield();
  engine.drain();
  for (const size_t text : {0, 1}) {
    EXPECT_LT(heard[text].added.size(), 20u);
    EXPECT_EQ(heard[text].ending, GenerationEnding::kCancelled);
  }
  EXPECT_EQ(engine.status().cancelled, 2u);
}

TEST(Engine, AnEngineThatEndsCancelsWhatItHas) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  Heard heard;
  std::promise<void> begun;
  {
    EngineLimits limits;
    limits.max_batch = 1;
    Engine engine(served(fixture), letter_texts(), limits);
    std::atomic<bool> first = true;
    engine.submit(greedy_request({1}, 30), heard.listener(0, [&](const Heard::Text& text) {
      if (first.exchange(false)) begun.set_value();
      if (!text.ending) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }));
    engine.submit(greedy_request({1}, 30), heard.listener(1));
    begun.get_future().wait();
  }
  EXPECT_EQ(heard[0].ending, GenerationEnding::kCancelled);
  EXPECT_EQ(heard[1].ending, GenerationEnding::kCancelled);
}

TEST(Engine, SaysHowLongATextItHasRoomFor) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  EXPECT_EQ(Engine(served(fixture), letter_texts(), {}).status().most_tokens, 32) << "model.sequence_length";
  EngineLimits limits;
  limits.page_tokens = 4;
  limits.memory_budget_bytes = 3 * KeyValueCache::bytes_of_page(fixture.model.config(), at::kDouble, 4);
  Engine engine(served(fixture), letter_texts(), limits);
  const int64_t most = engine.status().most_tokens;
  EXPECT_EQ(most, 13) << "twelve whose keys and values are kept, and the last";
  Heard heard;
  EXPECT_THROW(engine.submit(greedy_request({1, 2}, most - 1), heard.listener(0)), ShapeError);
  engine.submit(greedy_request({1, 2}, most - 2), heard.listener(0));
  heard.wait_for(1);
  EXPECT_EQ(heard[0].added.size(), static_cast<size_t>(most - 2));
}

TEST(Engine, HasToldOfAFailureWhenItHasDrained) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  std::atomic<bool> is_told = false;
  Engine engine(served(fixture), letter_texts(), {}, nullptr, [&](const std::exception_ptr&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    is_told = true;
  });
  Heard heard;
  engine.submit(greedy_request({1}, 5), heard.listener(0, [](const Heard::Text& text) {
    if (!text.ending) throw DataError("a step that fails");
  }));
  engine.drain();
  EXPECT_TRUE(is_told);
}

TEST(Engine, AFailedStepTellsEveryRequestAndTakesNoMore) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  std::promise<std::string> failure;
  Engine engine(served(fixture), letter_texts(), {}, nullptr, [&](const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& thrown) {
      failure.set_value(thrown.what());
    }
  });
  Heard heard;
  // A listener that throws stands for a step that does.
  engine.submit(greedy_request({1}, 5), heard.listener(0, [](const Heard::Text& text) {
    if (!text.ending) throw DataError("a step that fails");
  }));
  EXPECT_EQ(failure.get_future().get(), "a step that fails");
  EXPECT_EQ(heard[0].ending, GenerationEnding::kFailed);
  EXPECT_EQ(heard[0].error, "a step that fails");
  EXPECT_THROW(engine.submit(greedy_request({1}, 5), heard.listener(1)), Engine::Closed);
  engine.drain();
}

TEST(Engine, ScoresThatAreNoNumbersFailTheTextAlone) {
  ModelFixture fixture(served_model_config(), at::kDouble);
  {
    const at::NoGradGuard no_gradients;
    for (const auto& parameter : fixture.model.parameters()) {
      if (parameter->name == "embedding.weight") parameter->value[7].fill_(std::nan(""));
    }
  }
  Engine engine(served(fixture), letter_texts(), {});
  Heard heard;
  engine.submit(greedy_request({7}, 5), heard.listener(0));
  engine.submit(greedy_request({1}, 1), heard.listener(1));
  heard.wait_for(2);
  EXPECT_EQ(heard[0].ending, GenerationEnding::kFailed);
  EXPECT_NE(heard[0].error.find("not finite"), std::string::npos) << heard[0].error;
  EXPECT_EQ(heard[1].ending, GenerationEnding::kLength);
}

}  // namespace
}  // namespace pimoe
