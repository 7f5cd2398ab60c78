#pragma once

#include "model/generation.h"
#include "model/model_fixture.h"

#include <algorithm>

namespace pimoe {

/// Greedy continuation without a cache: whole forward passes over the last S tokens, one sequence at a time.
inline std::vector<int32_t> plain_continuation(const Transformer& model, const std::vector<int32_t>& prompt, int64_t tokens) {
  const at::NoGradGuard no_gradients;
  std::vector<int64_t> all(prompt.begin(), prompt.end());
  std::vector<int32_t> added;
  while (static_cast<int64_t>(added.size()) < tokens) {
    const int64_t seen = std::min(static_cast<int64_t>(all.size()), model.config().sequence_length);
    const at::Tensor window = at::tensor(std::vector<int64_t>(all.end() - seen, all.end()), at::kLong).view({1, seen});
    const at::Tensor logits = model.logits(window, {0, seen});
    added.push_back(static_cast<int32_t>(logits[0][seen - 1].argmax().item<int64_t>()));
    all.push_back(added.back());
  }
  return added;
}

/// A prompt of each length from 1 to `longest`.
inline std::vector<std::vector<int32_t>> ragged_prompts(int64_t longest, int64_t vocabulary) {
  std::vector<std::vector<int32_t>> prompts;
  for (int64_t length = 1; length <= longest; ++length) {
    const at::Tensor ids = random_tokens(1, length, vocabulary, static_cast<uint64_t>(100 + length));
    const int64_t* first = ids.const_data_ptr<int64_t>();
    prompts.emplace_back(first, first + length);
  }
  return prompts;
}

inline GenerationOptions greedy(int64_t tokens, int64_t batch) {
  GenerationOptions options;
  options.sampling.tokens = tokens;
  options.sampling.temperature = 0;
  options.batch = batch;
  return options;
}

}  // namespace pimoe
