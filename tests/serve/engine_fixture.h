#pragma once

#include "model/generation_fixture.h"
#include "serve/engine.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace pimoe {

/// Small, and with 29 tokens whose texts are the letters a to z and three of several bytes.
inline ModelConfig served_model_config() {
  ModelConfig config = tiny_model();
  config.width = 16;
  config.heads = 4;
  config.kv_heads = 2;
  config.sequence_length = 32;
  config.vocabulary = 29;
  return config;
}

inline TokenTexts letter_texts() {
  TokenTexts texts;
  for (char letter = 'a'; letter <= 'z'; ++letter) texts.texts.emplace_back(1, letter);
  texts.texts.insert(texts.texts.end(), {"\xE2\x82", "\xAC", " "});
  return texts;
}

template <class Fixture>
ServedModel served(const Fixture& fixture, const std::string& name = "test") {
  ServedModel model;
  model.model = &fixture.model;
  model.mesh = fixture.mesh.get();
  model.checkpoint = name;
  return model;
}

/// What listeners have heard, request after request. Waits for the ends.
class Heard {
 public:
  struct Text {
    std::vector<GeneratedToken> tokens;
    std::vector<int32_t> added;  ///< ids of the tokens that are not the prompt's
    std::string text;            ///< of those
    std::optional<GenerationEnding> ending;
    std::string error;
  };

  /// @param then  called after each update, on the engine's thread
  Engine::Listener listener(size_t request, std::function<void(const Text&)> then = nullptr) {
    return [this, request, then](const GenerationUpdate& update) {
      Text copy;
      {
        const std::lock_guard lock(mutex_);
        Text& text = texts_[request];
        EXPECT_FALSE(text.ending) << "an update behind the last";
        for (const GeneratedToken& token : update.tokens) {
          text.tokens.push_back(token);
          if (token.of_prompt) continue;
          text.added.push_back(static_cast<int32_t>(token.token));
          text.text += token.text;
        }
        text.text += update.tail;
        text.ending = update.ending;
        text.error = update.error;
        copy = text;
      }
      if (then) then(copy);
      if (update.ending) {
        const std::lock_guard lock(mutex_);
        ++ended_;
        changed_.notify_all();
      }
    };
  }

  void wait_for(size_t requests) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_ >= requests; });
  }

  Text operator[](size_t request) {
    const std::lock_guard lock(mutex_);
    return texts_[request];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<size_t, Text> texts_;
  size_t ended_ = 0;
};

inline GenerationRequest greedy_request(std::vector<int64_t> prompt, int64_t max_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  return request;
}

/// The continuation that `generate` makes of the request alone.
inline Continuation alone(const Transformer& model, const ProcessMesh& mesh, const GenerationRequest& request) {
  GenerationOptions options;
  options.sampling = request.sampling;
  options.sampling.tokens = request.max_tokens;
  std::vector<int32_t> prompt(request.prompt.begin(), request.prompt.end());
  if (prompt.empty()) prompt.push_back(0);
  return continue_prompts(model, {prompt}, mesh, options)[0];
}

inline std::vector<int64_t> random_prompt(std::mt19937& random, size_t longest) {
  std::vector<int64_t> prompt(random() % (longest + 1));
  for (int64_t& token : prompt) token = static_cast<int64_t>(random() % 29);
  return prompt;
}

}  // namespace pimoe
