#pragma once

#include "moe/moe_config.h"
#include "parallel/precision.h"

#include <cstdint>
#include <limits>
#include <vector>

namespace pimoe {

/// How unevenly tokens choose: rows of the fullest rank over its share at balance, as far as the configuration lets it come.
///
///     1           every expert has the same number of slots
///     kWorstSkew  every token of the expert group takes as many of the rank's experts as it may: min(K, L)
constexpr double kWorstSkew = std::numeric_limits<double>::infinity();

/// The rows that one micro-batch's routing brings to the experts of one rank, and what this rank sends.
struct RoutedRows {
  int64_t tokens = 0;  ///< T here
  int64_t slots = 0;   ///< T K; T E in expert choice
  int64_t sent = 0;    ///< rows from here to any rank, this one included; padding too
  int64_t padded = 0;  ///< the same where rows are padded, else 0
  int64_t rounds = 1;  ///< of the exchange, under a rank budget
  int64_t room = 0;    ///< rows that the exchange makes room for, all rounds together: those that are computed, and on one GPU all slots
  int64_t rows_at_once = 0;                   ///< most of the room in one round
  MoeExchange exchange = MoeExchange::kRows;  ///< rows, tokens or direct; rows where nothing is exchanged
  int64_t copies = 0;   ///< where tokens travel: of this rank's, one for each rank that holds experts of it, itself included, in a round
  int64_t arrived = 0;  ///< likewise: tokens that the experts take in a round; written directly, the places for them
  bool on_gpu = false;
  bool fused = false;         ///< the experts take tokens and give tokens (routed_swiglu_mlp), if their kind and widths allow it
  std::vector<int64_t> rows;  ///< of each bank of experts, all rounds together

  int64_t all_rows() const;
};

/// Who shares a micro-batch.
struct RoutedTokens {
  std::vector<int64_t> of_rank;  ///< tokens of each rank of the expert group, this rank's first
  int64_t sequence_length = 1;
  bool fuses_mlp = false;         ///< device and dtype have routed_swiglu_mlp's kernels
  bool reach_each_other = false;  ///< GPUs joined so that `exchange: auto` writes directly
  bool on_gpu = false;            ///< alone on a GPU a rank makes room for slots that were dropped too: it does not ask how many they are
};

/// @returns what a rank with the fullest share has of `tokens`, as moe_layer.cpp limits it. In skew the dearest experts (by kept bytes) are
///          full first; in between balance and the worst every bank's rows lie in the same ratio between theirs.
RoutedRows routed_rows(const MoeConfig& config, const RoutedTokens& tokens, double skew);

/// What a run has to bear that has to bear `skew`: that, and for the worst one, of which experts' rows go in rounds, also balance and the fullest
/// single round: a round that is not the only one keeps nothing for backward, so that these can need more.
std::vector<double> skews_to_bear(const MoeConfig& config, double skew);

}  // namespace pimoe
