#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace pimoe {

/// Log-probabilities behind a row of scores, in float64.
///
/// One formula gives all of them, so that of equal scores they are equal bits: a caller may ask whether a token is the likeliest by comparing.
class TokenScores {
 public:
  /// @param logits  [V] on the host, float32 or float64; must outlive the object
  explicit TokenScores(const at::Tensor& logits);

  double logprob(int64_t token) const { return (score(token) - largest_) - log_sum_; }
  /// @returns so many of the likeliest, at most V, most likely first, of equals the lower id
  std::vector<std::pair<int64_t, double>> top(int64_t count) const;

 private:
  /// What is no number is the least likely.
  double score(int64_t token) const {
    const double value = floats_ != nullptr ? static_cast<double>(floats_[token]) : doubles_[token];
    return value == value ? value : -std::numeric_limits<double>::infinity();
  }

  int64_t count_;
  const float* floats_ = nullptr;
  const double* doubles_ = nullptr;
  double largest_ = 0.0;
  double log_sum_ = 0.0;
};

}  // namespace pimoe
