#pragma once

#include "moe/moe_config.h"
#include "moe/moe_layer.h"
#include "parallel/communicator.h"

#include <vector>

namespace pimoe {

/// The balance losses of one micro-step over all MoE layers (N of them).
struct BalanceTerms {
  at::Tensor loss;  ///< scalar: this rank's share of the scaled losses; adds up to the whole over ranks and micro-steps; differentiable
  at::Tensor load;  ///< [N, E] int64, summed over all ranks of the batch group
  at::Tensor switch_part;  ///< [N] this rank's share of E * sum_i f_i P_i, unscaled, times the micro-step's share of the step's tokens
  at::Tensor z_part;       ///< [N] this rank's share of the mean of logsumexp^2, likewise
};

/// Switch balance loss and z-loss, equal in every layout at the same number of micro-steps.
///
/// The counts of all layers are summed over the batch group in one all-reduce; with f_i = c_i / (T K) of the micro-step, each rank's loss is
/// E * sum_i f_i * (local sum of p_i) / (tokens of the step): linear in what is local, so gradients add up to the same in every layout.
///
/// @param step_tokens  tokens of the whole step over all ranks
/// @source arXiv 2101.03961 eq. 4-6 (f, P, loss); over the global batch as in arXiv 2501.11873; z-loss arXiv 2202.08906 eq. 5
/// @cost one collective of N * E integers; no host synchronisation
BalanceTerms balance_terms(const std::vector<RoutingRecord>& layers, const BalanceConfig& config, double step_tokens,
                           const Communicator& batch_group);

/// Loss-free balancing after an optimizer step: b_i += rate * sign(mean c - c_i), then centred.
/// @param load  [E] slots of each expert over the step's global batch
/// @source arXiv 2408.15664, algorithm 1; centring keeps the bias from drifting as a whole, which no choice would see.
void update_bias(at::Tensor& bias, const at::Tensor& load, double rate);

}  // namespace pimoe
