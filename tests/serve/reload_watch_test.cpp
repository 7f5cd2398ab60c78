#include "serve/reload_watch.h"

#include "base/file_io.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/tiny_checkpoint.h"
#include "model/generation_fixture.h"
#include "serve/engine_fixture.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// A run of checkpoints that no model is in: the loader gives the one model, under the step that it is asked for.
class ReloadWatchTest : public testing::Test {
 protected:
  ReloadWatchTest() : fixture_(served_model_config(), at::kDouble) { log_.open_file(folder_.path() / "log"); }

  fs::path save(int64_t step) const {
    const fs::path checkpoint = folder_.path() / "run/checkpoints" / step_name(step);
    save_snapshot(checkpoint, tiny_snapshot(step));
    return checkpoint;
  }
  /// Another byte in the middle of a shard, which its size does not tell.
  static void damage(const fs::path& checkpoint) {
    for (const auto& file : fs::directory_iterator(checkpoint)) {
      if (file.path().extension() != ".h5") continue;
      std::string bytes = read_file(file.path());
      bytes[bytes.size() / 2] ^= 1;
      write_durably(file.path(), bytes.data(), bytes.size());
    }
  }
  void serve(int64_t step) {
    ServedModel model = loaded(step);
    engine_.emplace(std::move(model), letter_texts(), EngineLimits{}, [this](const fs::path& checkpoint) {
      {
        const std::lock_guard lock(mutex_);
        asked_.push_back(checkpoint.filename().string());
      }
      if (may_read_.valid()) may_read_.wait();
      return loaded(*step_of(checkpoint.filename().string()));
    });
    watch_.emplace(folder_.path() / "run", *engine_, log_);
  }
  ServedModel loaded(int64_t step) {
    ServedModel model = served(fixture_, step_name(step));
    model.step = step;
    return model;
  }
  std::string log() const { return read_file(folder_.path() / "log"); }
  /// Polls until the log has a text; a minute is far more than it takes.
  bool says(const std::string& text) {
    for (int tries = 0; tries < 6000; ++tries) {
      watch_->poll();
      if (log().find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  /// Looks, and waits until that is over: a look that is asked for always says something.
  void look_unasked() {
    watch_->look(/*was_asked=*/false);
    for (int tries = 0; tries < 100; ++tries) {
      watch_->poll();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  std::vector<std::string> asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  size_t warnings() const { return count_of("no reload"); }
  size_t count_of(const std::string& text) const {
    const std::string all = log();
    size_t count = 0;
    for (size_t at = all.find(text); at != std::string::npos; at = all.find(text, at + 1)) ++count;
    return count;
  }

  TemporaryFolder folder_;
  const ModelFixture fixture_;
  Logger log_{1};
  mutable std::mutex mutex_;
  std::vector<std::string> asked_;
  std::shared_future<void> may_read_;  ///< for weights; not valid: at once
  std::optional<Engine> engine_;
  std::optional<ReloadWatch> watch_;
};

TEST_F(ReloadWatchTest, TakesTheNewestThatIsLaterThanWhatIsServed) {
  for (const int64_t step : {5, 10, 20, 30}) save(step);
  serve(10);
  watch_->look(/*was_asked=*/true);
  ASSERT_TRUE(says("step 30, from now on; before: step 10")) << log();
  EXPECT_EQ(asked(), std::vector<std::string>{"step-00000030"});
  EXPECT_EQ(engine_->status().step, 30);
}

TEST_F(ReloadWatchTest, TakesNoneOfAnEarlierStepAndReadsNothingOfWhatIsServed) {
  save(5);
  damage(save(10));
  serve(10);
  watch_->look(/*was_asked=*/true);
  ASSERT_TRUE(says("no newer checkpoint than step-00000010")) << log();
  EXPECT_EQ(warnings(), 0u) << "the digests of the one that is served are nobody's concern\n" << log();
  fs::remove_all(folder_.path() / "run/checkpoints/step-00000010");
  look_unasked();
  EXPECT_EQ(asked(), std::vector<std::string>());
  EXPECT_EQ(engine_->status().step, 10);
}

TEST_F(ReloadWatchTest, OfADamagedOneItTakesTheOneBeforeAndWarnsOnce) {
  save(10);
  save(20);
  damage(save(30));
  serve(10);
  look_unasked();
  ASSERT_TRUE(says("step 20, from now on")) << log();
  EXPECT_EQ(warnings(), 1u) << log();
  EXPECT_NE(log().find("step-00000030"), std::string::npos) << log();
  look_unasked();
  EXPECT_EQ(warnings(), 1u) << log();
  watch_->look(/*was_asked=*/true);
  for (int tries = 0; tries < 1000 && warnings() < 2; ++tries) {
    watch_->poll();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(warnings(), 2u) << "who asks is told again\n" << log();
  EXPECT_EQ(asked(), std::vector<std::string>{"step-00000020"});
}

TEST_F(ReloadWatchTest, WaitsForNothingAndANewerOneTakesTheTurnOfAnother) {
  save(10);
  serve(10);
  std::promise<void> may_read;
  may_read_ = may_read.get_future().share();
  save(20);
  watch_->look(/*was_asked=*/true);
  while (asked().empty()) watch_->poll();
  watch_->poll();
  EXPECT_EQ(engine_->status().step, 10) << "weights are being read, and the caller goes on";
  save(30);
  look_unasked();
  save(40);
  look_unasked();
  may_read.set_value();
  ASSERT_TRUE(says("step 40, from now on")) << log();
  EXPECT_EQ(asked().back(), "step-00000040");
  EXPECT_EQ(count_of("from now on"), asked().size());
}

TEST_F(ReloadWatchTest, OfAStepFolderThereIsNoNewerOne) {
  const fs::path given = save(10);
  save(20);
  serve(10);
  watch_.emplace(given, *engine_, log_);
  watch_->look(/*was_asked=*/true);
  EXPECT_TRUE(says("no newer checkpoint")) << log();
}

TEST_F(ReloadWatchTest, WhatIsNoRunAnyMoreIsAWarning) {
  serve(10);
  watch_->look(/*was_asked=*/true);
  EXPECT_TRUE(says("step 10 is served as before")) << log();
}

}  // namespace
}  // namespace pimoe
