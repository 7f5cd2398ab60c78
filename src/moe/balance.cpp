#include "moe/balance.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/stack.h>

namespace pimoe {

BalanceTerms balance_terms(const std::vector<RoutingRecord>& layers, const BalanceConfig& config, double step_tokens,
                           const Communicator& batch_group) {
  std::vector<at::Tensor> loads;
  std::vector<at::Tensor> probabilities;
  std::vector<at::Tensor> squares;
  for (const RoutingRecord& layer : layers) {
    loads.push_back(layer.load);
    probabilities.push_back(layer.probability_sum);
    squares.push_back(layer.z_sum);
  }
  BalanceTerms terms;
  terms.load = at::stack(loads);
  batch_group.all_reduce(terms.load);

  const at::Tensor probability = at::stack(probabilities);
  const int64_t experts = terms.load.size(1);
  // The micro-step's slots T K are the sum of its counts; a micro-step without a token would divide by zero.
  const at::Tensor slots = terms.load.sum(1, true).clamp_min(1).to(probability.dtype());
  const at::Tensor share = terms.load.to(probability.dtype()) / slots;  // f_i
  const at::Tensor switch_part = (share * probability).sum(1) * (static_cast<double>(experts) / step_tokens);
  const at::Tensor z_part = at::stack(squares) / step_tokens;
  terms.loss = config.switch_loss * switch_part.sum() + config.z_loss * z_part.sum();
  terms.switch_part = switch_part.detach();
  terms.z_part = z_part.detach();
  return terms;
}

void update_bias(at::Tensor& bias, const at::Tensor& load, double rate) {
  const at::Tensor counts = load.to(bias.dtype());
  bias.add_(at::sign(counts.mean() - counts), rate);
  bias.sub_(bias.mean());
}

}  // namespace pimoe
