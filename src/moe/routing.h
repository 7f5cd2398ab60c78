#pragma once

#include "ops/packed_documents.h"
#include "parallel/device.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

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
  bool static_rows = false;     ///< buffers are as large as they can have to be, so that the host asks the device for nothing (DeviceGraph)
  at::Tensor token_ids;         ///< [T] int64 on the device; the hash router and replay alone look at it
  /// That the sequences are packed from; attention alone looks at it. Nothing: each sequence is one.
  std::optional<PackedDocuments> documents = {};
  at::Tensor counted;  ///< [T] bool; false: padding, which no expert sees and no statistic and no loss counts; undefined: all count
  const RoutingReplay* replay = nullptr;  ///< decisions that routers take instead of their own; null: none
};

/// Sum over the tokens that count. @param of_tokens [T, ...]  @param counted [T] bool, or undefined: all
at::Tensor sum_of_counted(const at::Tensor& of_tokens, const at::Tensor& counted);

/// What the balance losses need of one layer, summed over this rank's counted tokens; balance_sums() makes them.
///
/// All members are differentiable, and no other of a RoutingRecord is: what recomputes a layer hands on what differentiable() lists, and
/// would lose the gradient of anything else.
struct BalanceSums {
  at::Tensor probability_sum;   ///< [E] sum of the tokens' scores, each token's normalised to 1
  at::Tensor z_sum;             ///< scalar, sum of logsumexp(logits)^2
  at::Tensor sequence_balance;  ///< scalar, sum over sequences of S * E * sum_i f_i P_i within each; undefined if not asked for
};

/// @returns every member of `sums`, undefined ones too
inline std::vector<at::Tensor*> differentiable(BalanceSums& sums) {
  auto& [probability, z, sequence] = sums;  // another member does not compile before it is named here
  return {&probability, &z, &sequence};
}

/// What the router decided for T tokens: a value, never a member.
struct Routing : BalanceSums {
  at::Tensor experts;         ///< [T, K] int32, a token's experts by falling score, ties by index; -1: none (expert choice has K = E)
  at::Tensor weights;         ///< [T, K] at least float32: gates, differentiable
  at::Tensor confidence_sum;  ///< scalar, sum of each counted token's largest gate, no gradient
};

/// When a round's phases of the forward pass began and ended.
struct PhaseMarks {
  TimeMark begin, dispatched, computed, combined;
};

/// One layer's routing of one batch on this rank, and what became of it, for losses and metrics. Counts are of counted tokens; the gates have
/// no gradient here.
struct RoutingRecord : Routing {
  at::Tensor load;                 ///< [E] int64, slots that the router gave each expert, dropped ones included
  at::Tensor dropped;              ///< scalar int64, slots that were dropped over capacity or budget
  at::Tensor fallback;             ///< scalar int64, tokens that no expert served
  at::Tensor nonfinite;            ///< scalar int64, slots whose expert's result was not finite
  at::Tensor rows;                 ///< scalar int64, rows that this rank computed
  std::vector<PhaseMarks> phases;  ///< of each round
};

}  // namespace pimoe
