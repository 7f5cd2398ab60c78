#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace pimoe {

class RoutingReplay;

/// What a layer may know of its batch besides the tokens' vectors. The same for all layers; never keyed by rank.
struct BatchContext {
  /// Where this rank's tokens stand among all ranks' cannot be left out: routers, and ranks that pad, would disagree.
  BatchContext(int64_t first, int64_t most) : first_token(first), most_tokens(most) {}

  bool training = false;  ///< jitter is on
  uint64_t seed = 0;      ///< of random draws, keyed by (seed, purpose, step, layer, global token index)
  int64_t step = 0;
  int64_t first_token;          ///< this rank's first token's index among all ranks' tokens of the step
  int64_t sequence_length = 1;  ///< S: this rank's tokens are whole sequences, one after the other
  int64_t most_tokens;          ///< the largest T over the ranks, which decides a padded capacity
  at::Tensor token_ids;         ///< [T] int64 on the device; the hash router and replay alone look at it
  at::Tensor counted;           ///< [T] bool; false: padding, which is routed but counts in no statistic and no loss; undefined: all count
  const RoutingReplay* replay = nullptr;  ///< decisions that routers take instead of their own; null: none
};

/// What the router decided for T tokens: a value, never a member.
struct Routing {
  at::Tensor experts;  ///< [T, K] int32, a token's experts by falling score, ties by index; -1: none (expert choice has K = E)
  at::Tensor weights;  ///< [T, K] at least float32: gates, differentiable

  // What the balance losses need, summed over this rank's counted tokens; see balance.h.
  at::Tensor probability_sum;  ///< [E] sum of the tokens' scores, each token's normalised to 1; differentiable
  at::Tensor z_sum;            ///< scalar, sum of logsumexp(logits)^2, differentiable
  at::Tensor
      sequence_balance;  ///< scalar, sum over sequences of S * E * sum_i f_i P_i within each; differentiable; undefined if not asked for
  at::Tensor confidence_sum;  ///< scalar, sum of each token's largest gate, no gradient
};

}  // namespace pimoe
