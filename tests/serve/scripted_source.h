#pragma once

/// A source of completions without a model: each text goes on with the letters of its script, a token each.

#include "base/errors.h"
#include "serve/completion_source.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace pimoe {

class ScriptedSource : public CompletionSource {
 public:
  /// What tokens it answers with; of each request so many as it asks for.
  std::string script = "abcdefghijklmnopqrstuvwxyz";
  std::chrono::milliseconds pause{0};  ///< before each token
  size_t room = 1000;
  std::atomic<bool> is_closed = false;
  std::atomic<bool> fails = false;
  size_t token_bytes = 1;          ///< each letter so often
  int64_t most = 1'000'000;        ///< tokens of a text
  std::optional<int64_t> weights;  ///< step of those that it says to continue texts with; none: it does not say
  uint64_t breaks_at = 0;          ///< the request of that number makes `submit` throw what its contract does not have

  ~ScriptedSource() override {
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  uint64_t submit(GenerationRequest request, GenerationListener listener) override {
    const std::lock_guard lock(mutex_);
    if (is_closed) throw Closed("the script is over");
    if (running_ >= room) throw Full(concat(room, " requests wait: again later"));
    if (static_cast<int64_t>(request.prompt.size()) + request.max_tokens > 5000) throw ShapeError("too long for the script");
    const uint64_t id = ++last_id_;
    if (id == breaks_at) throw std::runtime_error("the source is broken");
    requests_.push_back(request);
    ++running_;
    cancelled_[id] = false;
    threads_.emplace_back([this, id, request = std::move(request), listener = std::move(listener)] { play(id, request, listener); });
    return id;
  }
  void cancel(uint64_t id) override {
    {
      const std::lock_guard lock(mutex_);
      const auto found = cancelled_.find(id);
      if (found == cancelled_.end()) return;
      found->second = true;
    }
    changed_.notify_all();
  }
  std::vector<Number> numbers() const override { return {{"running", "Texts that go on", static_cast<double>(running())}}; }
  std::vector<double> expert_shares() const override { return {0.25, 0.75}; }
  State state() const override { return {.running = static_cast<int64_t>(running())}; }
  int64_t most_tokens() const override { return most; }
  int64_t step() const override { return 42; }

  size_t running() const {
    const std::lock_guard lock(mutex_);
    return running_;
  }
  size_t cancelled() const {
    const std::lock_guard lock(mutex_);
    return cancelled_count_;
  }
  std::vector<GenerationRequest> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  void play(uint64_t id, const GenerationRequest& request, const GenerationListener& listener) {
    GenerationUpdate update;
    if (request.score_prompt) {
      for (size_t index = 0; index < request.prompt.size(); ++index)
        update.tokens.push_back(token(request, request.prompt[index], index > 0, /*of_prompt=*/true));
    }
    for (int64_t made = 0; made < request.max_tokens; ++made) {
      if (!wait(id)) {
        update.ending = GenerationEnding::kCancelled;
        break;
      }
      if (fails) {
        update.ending = GenerationEnding::kFailed;
        update.error = "the script is torn";
        break;
      }
      if (made == static_cast<int64_t>(script.size())) {
        update.ending = GenerationEnding::kEndOfDocument;
        break;
      }
      update.tokens.push_back(token(request, 10 + made, /*is_scored=*/true, /*of_prompt=*/false));
      update.tokens.back().text = std::string(token_bytes, script[static_cast<size_t>(made)]);
      update.step = weights;
      if (made + 1 < request.max_tokens) {
        listener(update);
        update = {};
      }
    }
    if (!update.ending) update.ending = GenerationEnding::kLength;
    {
      const std::lock_guard lock(mutex_);
      --running_;
      if (update.ending == GenerationEnding::kCancelled) ++cancelled_count_;
      cancelled_.erase(id);
    }
    listener(update);
  }
  static GeneratedToken token(const GenerationRequest& request, int64_t id, bool is_scored, bool of_prompt) {
    GeneratedToken made;
    made.token = id;
    made.of_prompt = of_prompt;
    if (request.top_logprobs && is_scored) {
      made.logprob = -0.1 * static_cast<double>(id + 1) / 3;
      for (int64_t index = 0; index < *request.top_logprobs; ++index)
        made.top.emplace_back(id + index, *made.logprob - static_cast<double>(index));
    }
    if (request.trace_experts && is_scored) made.experts = {{0, 1}, {1, 2}};
    return made;
  }
  /// @returns false once the request is cancelled
  bool wait(uint64_t id) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, pause, [&] { return is_over_ || cancelled_.at(id); });
    return !is_over_ && !cancelled_.at(id);
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, bool> cancelled_;
  std::vector<GenerationRequest> requests_;
  std::vector<std::thread> threads_;
  uint64_t last_id_ = 0;
  size_t running_ = 0;
  size_t cancelled_count_ = 0;
  bool is_over_ = false;
};

}  // namespace pimoe
