#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace pimoe {

struct SamplingOptions {
  int64_t tokens = 128;             ///< most tokens to add
  double temperature = 0.8;         ///< 0: the likeliest token, of equals the first
  int64_t top_k = 0;                ///< draw from so many likeliest tokens; 0: all
  double top_p = 0.95;              ///< of these the fewest likeliest that hold this probability; 1: all
  double repetition_penalty = 1.0;  ///< how much less likely tokens become that are there already; 1: not
  uint64_t seed = 1234;
  int32_t stop_token = -1;  ///< ends the text, and is not returned; -1: none

  /// Whether the token is that of the largest of the model's own scores: no other option changes which, and no draw is asked for.
  bool is_plainly_greedy() const;
};

/// Scores after the penalty of what was there: divided by it where they are positive, multiplied where they are not.
/// @param logits [V] on the host  @param seen  ids, each counts once; outside [0, V): ShapeError
/// @source CTRL, arXiv 1909.05858, section 4.1, in the form that keeps negative scores from rising.
at::Tensor penalised(const at::Tensor& logits, const std::vector<int64_t>& seen, double penalty);

/// Draws one token: of the tokens from the likeliest down, of equals the lower id first, the one in whose probability `draw` of the whole falls.
/// @param logits [V] on the host  @param draw in [0, 1)  @cost O(V): the tokens are not sorted
/// @source nucleus sampling: arXiv 1904.09751; top-k: arXiv 1805.04833, section 5.4.
int32_t sample_token(const at::Tensor& logits, const SamplingOptions& options, double draw);

}  // namespace pimoe
