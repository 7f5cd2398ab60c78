#pragma once

#include "model/transformer.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace pimoe {

struct SamplingOptions {
  int64_t tokens = 128;      ///< most tokens to add
  double temperature = 0.8;  ///< 0: the likeliest token, of equals the first
  double top_p = 0.95;       ///< the fewest likeliest tokens that hold this probability; 1: all
  uint64_t seed = 1234;
  int32_t stop_token = -1;  ///< ends the text, and is not returned; -1: none
};

/// Draws one token. @param logits [V] on the host  @param draw in [0, 1)
/// @source nucleus sampling: arXiv 1904.09751.
int32_t sample_token(const at::Tensor& logits, double temperature, double top_p, double draw);

/// Continues `prompt` (at least one token) with a single-rank model; the last sequence_length tokens are seen.
/// @param each  called with every token as it comes; may be null
/// @returns the new tokens alone
/// @cost one forward pass over the whole context for each token.
std::vector<int32_t> sample_tokens(const Transformer& model, const std::vector<int32_t>& prompt, c10::Device device,
                                   const SamplingOptions& options, const std::function<void(int32_t)>& each);

}  // namespace pimoe
