#pragma once

#include "moe/moe_config.h"

#include <ATen/core/Tensor.h>

namespace pimoe {

/// The smallest integer that is not below a product of sizes and a factor, but for the factor's own rounding: 110 for 100 * 1.1, which is
/// 110.00000000000001 in binary.
int64_t rounded_up(double product);

/// Slots that an expert takes of one rank's micro-batch of `tokens` tokens, T K / E * capacity_factor rounded up: at least 1, and at most
/// T, since a token has an expert once. Where rows are padded `tokens` is the largest T over the ranks. The layer and its forecast both ask here.
int64_t expert_capacity(const MoeConfig& config, int64_t tokens);

/// The same, or 0 where an expert takes every slot that comes: no capacity is set, or experts choose.
/// @param tokens  of the rank  @param most_tokens  of any rank: what padded rows go by
int64_t slot_limit(const MoeConfig& config, int64_t tokens, int64_t most_tokens);

/// Tokens that each expert takes of a sequence of S, where experts choose: ceil(K S / E), at most all.
int64_t tokens_of_choosing_expert(const MoeConfig& config, int64_t sequence_length);

/// Rows that a rank computes at a time: its share of all ranks' `slots` * rank_budget, rounded up, at least 1. As expert_capacity for whom asks.
int64_t rows_within_budget(const MoeConfig& config, int64_t slots, int64_t ranks);

/// Rounds of at most `budget` rows that bring `rows` rows.
int64_t rounds_of_budget(int64_t rows, int64_t budget);

/// Which slots stay when each bin takes no more than its limit.
/// @param bins      [N] int32: the bin (expert, rank) of each slot, -1 for none
/// @param priority  [N] floating: of a bin's slots the largest stay, ties by index; undefined: the first stay
/// @param limits    [G] int64 on the same device
/// @returns [N] bool: false also for slots of no bin
/// @cost two sorts; no host synchronisation
at::Tensor within_limits(const at::Tensor& bins, const at::Tensor& priority, const at::Tensor& limits);

/// The place of each slot among the slots of its bin, in slot order.
/// @returns [N] int64; -1 for slots of no bin
at::Tensor places_in_bins(const at::Tensor& bins, int64_t bin_count);

}  // namespace pimoe
