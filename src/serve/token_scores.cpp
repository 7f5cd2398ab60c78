#include "serve/token_scores.h"

#include "base/errors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace pimoe {

TokenScores::TokenScores(const at::Tensor& logits) : count_(logits.numel()) {
  if (!logits.is_cpu() || !logits.is_contiguous() || logits.dim() != 1 || count_ == 0)
    throw ShapeError("TokenScores needs [V] on the host");
  if (logits.scalar_type() == at::kFloat) {
    floats_ = logits.const_data_ptr<float>();
  } else {
    doubles_ = logits.const_data_ptr<double>();
  }
  largest_ = -std::numeric_limits<double>::infinity();
  for (int64_t token = 0; token < count_; ++token) largest_ = std::max(largest_, score(token));
  double sum = 0.0;
  for (int64_t token = 0; token < count_; ++token) sum += std::exp(score(token) - largest_);
  log_sum_ = std::log(sum);
}

std::vector<std::pair<int64_t, double>> TokenScores::top(int64_t count) const {
  std::vector<int64_t> order(static_cast<size_t>(count_));
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + std::min(count, count_);
  std::partial_sort(order.begin(), end, order.end(), [&](int64_t one, int64_t other) {
    const double first = score(one), second = score(other);
    return first > second || (first == second && one < other);
  });
  std::vector<std::pair<int64_t, double>> likeliest;
  for (auto token = order.begin(); token != end; ++token) likeliest.emplace_back(*token, logprob(*token));
  return likeliest;
}

}  // namespace pimoe
