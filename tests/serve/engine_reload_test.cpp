#include "model/generation_fixture.h"
#include "serve/engine.h"
#include "serve/engine_fixture.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace pimoe {
namespace {

/// Other weights for the same model.
void change_weights(ModelFixture& fixture) {
  const at::NoGradGuard no_gradients;
  for (const auto& parameter : fixture.model.parameters()) parameter->value.neg_();
}

TEST(EngineReload, AfterAReloadNewTextsHaveTheNewWeightsAndBegunOnesTheOld) {
  ModelFixture before(served_model_config(), at::kDouble), after(served_model_config(), at::kDouble);
  change_weights(after);
  const GenerationRequest longer = greedy_request({3, 7, 1}, 20), shorter = greedy_request({3, 7, 1}, 6);
  const auto old_text = alone(before.model, *before.mesh, longer).tokens, new_text = alone(after.model, *after.mesh, shorter).tokens;
  ASSERT_NE(std::vector<int32_t>(old_text.begin(), old_text.begin() + 6), new_text);
  Engine engine(served(before, "old"), letter_texts(), {}, [&](const std::filesystem::path& checkpoint) {
    EXPECT_EQ(checkpoint, "some/where");
    return served(after, "new");
  });
  Heard heard;
  std::promise<void> begun;
  std::atomic<bool> first = true;
  engine.submit(longer, heard.listener(0, [&](const Heard::Text& /*text*/) {
    if (first.exchange(false)) begun.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // so that there is something left when the weights come
  }));
  begun.get_future().wait();
  engine.reload("some/where");
  EXPECT_EQ(engine.status().checkpoint, "new");
  engine.submit(shorter, heard.listener(1));
  heard.wait_for(2);
  EXPECT_EQ(heard[0].added, old_text);
  EXPECT_EQ(heard[1].added, new_text);
}

TEST(EngineReload, AReloadThatFailsChangesNothing) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  ModelConfig other = served_model_config();
  other.vocabulary = 31;
  const ModelFixture wider(other, at::kDouble);
  other = served_model_config();
  other.kv_heads = 4;
  const ModelFixture heavier(other, at::kDouble);
  const GenerationRequest request = greedy_request({3, 7, 1}, 6);
  Engine engine(served(fixture, "old"), letter_texts(), {}, [&](const std::filesystem::path& checkpoint) {
    if (checkpoint == "wider") return served(wider, "new");
    if (checkpoint == "heavier") return served(heavier, "new");
    throw CheckpointError("damaged");
  });
  EXPECT_THROW(engine.reload("damaged"), CheckpointError);
  EXPECT_THROW(engine.reload("wider"), ConfigError);
  EXPECT_THROW(engine.reload("heavier"), ConfigError);
  EXPECT_EQ(engine.status().checkpoint, "old");
  Heard heard;
  engine.submit(request, heard.listener(0));
  heard.wait_for(1);
  EXPECT_EQ(heard[0].added, alone(fixture.model, *fixture.mesh, request).tokens);
  Engine without(served(fixture), letter_texts(), {});
  EXPECT_THROW(without.reload("x"), ConfigError);
}

TEST(EngineReload, ANewerReloadTakesThePlaceOfOneThatHasNotBegun) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  std::promise<void> goes_on;
  const std::shared_future<void> may_go_on = goes_on.get_future().share();
  std::promise<void> is_read;
  Engine engine(served(fixture, "1"), letter_texts(), {}, [&](const std::filesystem::path& checkpoint) {
    if (checkpoint == "2") {
      is_read.set_value();
      may_go_on.wait();
    }
    return served(fixture, checkpoint.string());
  });
  std::future<void> second = engine.begin_reload("2");
  is_read.get_future().wait();
  std::future<void> third = engine.begin_reload("3");
  std::future<void> fourth = engine.begin_reload("4");
  EXPECT_THROW(third.get(), Engine::Replaced);
  EXPECT_EQ(engine.status().checkpoint, "1") << "nobody has waited";
  goes_on.set_value();
  second.get();
  fourth.get();
  EXPECT_EQ(engine.status().checkpoint, "4");
}

TEST(EngineReload, AReloadThatHasNotBegunEndsWithTheEngine) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  std::promise<void> is_read;
  std::future<void> first, second;
  {
    Engine engine(served(fixture), letter_texts(), {}, [&](const std::filesystem::path& checkpoint) {
      if (checkpoint == "first") is_read.set_value();
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      return served(fixture);
    });
    first = engine.begin_reload("first");
    is_read.get_future().wait();
    second = engine.begin_reload("second");
  }
  first.get();
  EXPECT_THROW(second.get(), Engine::Closed);
}

TEST(EngineReload, SaysWhichCheckpointATextComesFrom) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  ServedModel before = served(fixture), after = served(fixture);
  before.step = 5;
  after.step = 6;
  std::promise<void> has_begun, has_waited;
  Engine engine(before, letter_texts(), {}, [&](const std::filesystem::path&) { return after; });
  std::vector<std::optional<int64_t>> steps[3];
  std::promise<void> ended[3];
  const auto listener = [&](size_t index) {
    return [&, index](const GenerationUpdate& update) {
      if (index == 0 && steps[0].empty()) has_begun.set_value();
      steps[index].push_back(update.step);
      if (index == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      if (update.ending) ended[index].set_value();
    };
  };
  engine.submit(greedy_request({3}, 20), listener(0));
  has_begun.get_future().wait();
  engine.reload("newer");
  EXPECT_EQ(engine.status().step, 6);
  engine.submit(greedy_request({3}, 2), listener(1));
  engine.submit(greedy_request({}, 0), listener(2));
  for (auto& each : ended) each.get_future().wait();
  for (const auto& step : steps[0]) EXPECT_EQ(step, 5);
  for (const auto& step : steps[1]) EXPECT_EQ(step, 6);
  EXPECT_EQ(steps[2].back(), 6) << "of a text that needs no step";
}

TEST(EngineReload, TakesNoModelWithOtherExpertsInTheServedOnesPlace) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  std::vector<std::pair<std::string, ModelConfig>> others;
  others.emplace_back("model.moe.experts", served_model_config()).second.moe.experts = 400;
  others.emplace_back("model.moe.choices", served_model_config()).second.moe.choices = 1;
  others.emplace_back("layers with experts", served_model_config()).second.moe.first_dense_layers = 0;
  for (const auto& [name, config] : others) {
    const ModelFixture other(config, at::kDouble);
    Engine engine(served(fixture, "old"), letter_texts(), {}, [&](const std::filesystem::path&) { return served(other, "new"); });
    try {
      engine.reload("new");
      ADD_FAILURE() << name << ": is taken";
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
    Heard heard;
    engine.submit(greedy_request({3, 7, 1}, 6), heard.listener(0));
    heard.wait_for(1);
    EXPECT_EQ(engine.status().checkpoint, "old");
  }
}

TEST(EngineReload, AReloadThatLacksMemoryOrFilesChangesNothingEither) {
  const ModelFixture fixture(served_model_config(), at::kDouble);
  Engine engine(served(fixture, "old"), letter_texts(), {}, [&](const std::filesystem::path& checkpoint) -> ServedModel {
    if (checkpoint == "large") throw std::bad_alloc();
    if (checkpoint == "gone") throw std::filesystem::filesystem_error("cannot read", std::make_error_code(std::errc::io_error));
    throw 17;
  });
  for (const std::string& name : {std::string("large"), std::string("gone"), std::string("strange")}) {
    try {
      engine.reload(name);
      ADD_FAILURE() << name;
    } catch (const CheckpointError& error) {
      EXPECT_EQ(std::string(error.what()).find(name + ": "), 0u) << error.what();
    }
    Heard heard;
    engine.submit(greedy_request({3, 7, 1}, 2), heard.listener(0));
    heard.wait_for(1);
    EXPECT_EQ(heard[0].ending, GenerationEnding::kLength);
  }
}

}  // namespace
}  // namespace pimoe
