#include "model/sampling.h"

#include "base/random.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace pimoe {

int32_t sample_token(const at::Tensor& logits, double temperature, double top_p, double draw) {
  if (temperature == 0) return static_cast<int32_t>(logits.argmax().item<int64_t>());
  const at::Tensor probabilities = at::softmax(logits.to(at::kDouble) / temperature, 0);
  const auto [sorted, order] = at::sort(probabilities, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const double* values = sorted.const_data_ptr<double>();
  const int64_t vocabulary = sorted.numel();
  double kept = 0.0;
  int64_t count = 0;
  while (count < vocabulary && (count == 0 || kept < top_p)) kept += values[count++];
  double left = draw * kept;
  int64_t chosen = 0;
  while (chosen + 1 < count && left >= values[chosen]) left -= values[chosen++];
  return static_cast<int32_t>(order.const_data_ptr<int64_t>()[chosen]);
}

std::vector<int32_t> sample_tokens(const Transformer& model, const std::vector<int32_t>& prompt, c10::Device device,
                                   const SamplingOptions& options, const std::function<void(int32_t)>& each) {
  const at::NoGradGuard no_gradients;
  const uint64_t key = named_key(options.seed, "sampling");
  std::vector<int64_t> context(prompt.begin(), prompt.end());
  std::vector<int32_t> added;
  while (static_cast<int64_t>(added.size()) < options.tokens) {
    const auto seen = std::min(static_cast<int64_t>(context.size()), model.config().sequence_length);
    at::Tensor tokens = at::zeros({1, seen}, at::kLong);
    std::copy(context.end() - seen, context.end(), tokens.mutable_data_ptr<int64_t>());
    const at::Tensor logits = model.next_token_logits(tokens.to(device)).squeeze(0).cpu();
    const int32_t token = sample_token(logits, options.temperature, options.top_p, random_uniform(key, added.size()));
    if (token == options.stop_token) break;
    added.push_back(token);
    context.push_back(token);
    if (each) each(token);
  }
  return added;
}

}  // namespace pimoe
