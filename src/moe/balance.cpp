#include "moe/balance.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pimoe {
namespace {

/// [N] E * sum_i f_i * (sum of p_i), f from these loads.
at::Tensor switch_sums(const at::Tensor& load, const at::Tensor& probability) {
  const at::Tensor slots = load.sum(1, true).clamp_min(1).to(probability.dtype());
  const at::Tensor share = load.to(probability.dtype()) / slots;
  return static_cast<double>(load.size(1)) * (share * probability).sum(1);
}

/// S * E * sum_i f_i P_i of each sequence, summed over sequences.
/// @source DeepSeek-V3, arXiv 2412.19437 eq. 17-20: f_i = E / (K S) slots, P_i = mean normalised score
at::Tensor sequence_balance(const at::Tensor& normalised, const at::Tensor& experts, const BatchContext& context) {
  const int64_t tokens = normalised.size(0);
  const int64_t count = normalised.size(1);
  const int64_t sequences = tokens / context.sequence_length;
  if (sequences == 0) return normalised.sum();  // zero, and still part of the graph
  const at::Tensor chosen = experts.to(at::kLong);
  at::Tensor counts = at::zeros({tokens, count}, normalised.options());
  counts.scatter_add_(1, chosen.clamp_min(0), (chosen >= 0).to(counts.dtype()));
  at::Tensor scores = normalised;
  if (context.counted.defined()) {
    const at::Tensor weight = context.counted.to(normalised.dtype()).unsqueeze(1);
    counts = counts * weight;
    scores = scores * weight;
  }
  const auto per_sequence = [&](const at::Tensor& rows) { return rows.view({sequences, -1, count}).sum(1); };
  const at::Tensor slots = per_sequence(counts);
  const at::Tensor share = slots / slots.sum(1, true).clamp_min(1);
  // S * P is the sum of the sequence's scores.
  return static_cast<double>(count) * (share * per_sequence(scores)).sum();
}

}  // namespace

BalanceSums balance_sums(const at::Tensor& normalised, const at::Tensor& log_sum, const at::Tensor& experts, const BatchContext& context,
                         const BalanceConfig& config) {
  BalanceSums sums;
  sums.probability_sum = sum_of_counted(normalised, context.counted);
  sums.z_sum = log_sum.defined() ? sum_of_counted(log_sum.square(), context.counted) : at::zeros({}, normalised.options());
  if (config.sequence_loss > 0) sums.sequence_balance = sequence_balance(normalised, experts, context);
  return sums;
}

int64_t numbers_kept_by_balance_sums(const BalanceConfig& config, int64_t tokens, int64_t sequence_length, int64_t experts) {
  int64_t numbers = tokens;                                                                           // log_sum
  if (config.sequence_loss > 0) numbers += tokens / std::max<int64_t>(1, sequence_length) * experts;  // shares
  return numbers;
}

BalanceTerms balance_terms(const std::vector<RoutingRecord>& layers, const BalanceConfig& config, double step_tokens,
                           const at::Tensor& load_before, const Communicator& batch_group) {
  const auto stacked = [&layers](const auto member) {
    std::vector<at::Tensor> of_layers;
    for (const RoutingRecord& layer : layers) of_layers.push_back(layer.*member);
    return at::stack(of_layers);
  };
  const at::Tensor local = stacked(&RoutingRecord::load);
  BalanceTerms terms;
  terms.load = local.clone();
  batch_group.all_reduce(terms.load);

  const at::Tensor probability = stacked(&BalanceSums::probability_sum);
  const auto unscaled = [&](BalanceRule rule) -> at::Tensor {
    switch (rule) {
      case BalanceRule::kSwitch: return switch_sums(terms.load, probability);
      case BalanceRule::kZ: return stacked(&BalanceSums::z_sum);
      case BalanceRule::kStep: return switch_sums(load_before.defined() ? load_before + terms.load : terms.load, probability);
      case BalanceRule::kSequence: return stacked(&BalanceSums::sequence_balance);
      case BalanceRule::kLocal: return switch_sums(local, probability);
    }
    return {};
  };
  at::Tensor scaled;
  std::vector<at::Tensor> parts;
  for (const BalanceRule rule : config.rules()) {
    const at::Tensor part = unscaled(rule) / step_tokens;
    scaled = scaled.defined() ? scaled + config.coefficient(rule) * part : config.coefficient(rule) * part;
    parts.push_back(part.detach());
  }
  terms.loss = scaled.sum();
  terms.parts = at::stack(parts);
  return terms;
}

void update_bias(at::Tensor& bias, const at::Tensor& load, double rate, BiasLaw law) {
  // In integers: a float32 mean of more than 2^24 slots would move the bias of a balanced layer.
  const at::Tensor total = load.sum();
  const at::Tensor missing = total - load * load.numel();
  const at::Tensor error = law == BiasLaw::kSign ? missing.sign() : missing.to(at::kDouble).div(total.clamp_min(1)).clamp_min(-1);
  bias.add_(error.to(bias.dtype()), rate);
  bias.sub_(bias.mean());
}

double scheduled_bias_rate(const BalanceConfig& config, int64_t step, int64_t steps) {
  const double done = steps > 0 ? std::min(1.0, static_cast<double>(step) / static_cast<double>(steps)) : 0.0;
  switch (config.bias_schedule) {
    case BiasSchedule::kConstant: return config.bias_rate;
    case BiasSchedule::kLinear: return config.bias_rate * (1.0 - done);
    case BiasSchedule::kCosine: return config.bias_rate * 0.5 * (1.0 + std::cos(std::numbers::pi * done));
  }
  return config.bias_rate;
}

}  // namespace pimoe
