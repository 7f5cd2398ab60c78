#pragma once

#include "moe/balance_config.h"
#include "moe/routing.h"
#include "parallel/communicator.h"

#include <vector>

namespace pimoe {

/// The balance losses of one micro-step over all MoE layers (N of them).
struct BalanceTerms {
  at::Tensor loss;  ///< scalar: this rank's share of the scaled losses; adds up to the whole over ranks and micro-steps; differentiable
  at::Tensor load;  ///< [N, E] int64, summed over all ranks of the batch group
  /// [R, N] of BalanceConfig::rules(): this rank's share of each rule's loss, unscaled, times the micro-step's share of the step's tokens, so
  /// that ranks and micro-steps add up to a mean: 1 at balance, but for the z-loss.
  at::Tensor parts;
};

/// @returns what one layer's router gives the losses
/// @param normalised  [T, E] at least float32: each token's scores, of sum 1
/// @param log_sum     [T] logsumexp of its logits, or undefined where a router has none
/// @param experts     [T, K] int32, -1 for none
BalanceSums balance_sums(const at::Tensor& normalised, const at::Tensor& log_sum, const at::Tensor& experts, const BatchContext& context,
                         const BalanceConfig& config);

/// @returns numbers of the scores' type that balance_sums keeps for backward of T tokens in sequences of S, where there are logits
int64_t numbers_kept_by_balance_sums(const BalanceConfig& config, int64_t tokens, int64_t sequence_length, int64_t experts);

/// Balance losses, each with its coefficient, equal in every layout at the same number of micro-steps (but for local_loss).
///
/// With c_i the slots of expert i, f_i = c_i / (T K), P_i = mean_t p_i over T tokens, p a token's scores normalised to sum 1:
///
///     switch_loss    E sum_i f_i P_i over all ranks' tokens of the micro-step      arXiv 2101.03961 eq. 4-6; over a global batch arXiv 2501.11873
///     step_loss      the same, f over the tokens of the step so far                arXiv 2501.11873, section 3 (counts kept over micro-batches)
///     sequence_loss  the same within each sequence, averaged                       arXiv 2412.19437 eq. 17-20
///     local_loss     the same over this rank's tokens, as Megatron's aux_loss      changes with the layout
///     z_loss         mean_t logsumexp(x_t)^2                                       arXiv 2202.08906 eq. 5
///
/// The counts of all layers are summed over the batch group in one all-reduce; then each rank's loss is E * sum_i f_i * (local sum of p_i) /
/// (tokens of the step): linear in what is local, so that gradients add up to the same in every layout. f carries no gradient.
///
/// @param step_tokens  tokens of the whole step over all ranks
/// @param load_before  [N, E] int64, global loads of the step's micro-steps before this one; undefined: none
/// @cost one collective of N * E integers; no host synchronisation
BalanceTerms balance_terms(const std::vector<RoutingRecord>& layers, const BalanceConfig& config, double step_tokens,
                           const at::Tensor& load_before, const Communicator& batch_group);

/// Loss-free balancing after an optimizer step: b_i += rate * sign(e_i), or rate * e_i with e_i = (mean c - c_i) / mean c, then centred.
/// @param load  [E] slots of each expert over the step's global batch
/// @param law   proportional: e_i is taken as at least -1, so that one collapsed layer cannot throw a bias further than `rate`
/// @source arXiv 2408.15664, algorithm 1, and its variant in proportion to the error; centring keeps the bias from drifting as a whole, which
///         no choice would see.
void update_bias(at::Tensor& bias, const at::Tensor& load, double rate, BiasLaw law);

/// @returns bias_rate as its schedule has it after `step` of `steps` steps
double scheduled_bias_rate(const BalanceConfig& config, int64_t step, int64_t steps);

}  // namespace pimoe
