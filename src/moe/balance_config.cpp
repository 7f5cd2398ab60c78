#include "moe/balance_config.h"

#include <algorithm>

namespace pimoe {

std::span<const BalanceLoss> balance_losses() {
  static constexpr BalanceLoss kLosses[] = {
      {BalanceRule::kSwitch, &BalanceConfig::switch_loss, "switch_loss", "Switch balance loss over all ranks' tokens of a micro-step",
       true},
      {BalanceRule::kSequence, &BalanceConfig::sequence_loss, "sequence_loss", "the same in each sequence, averaged (DeepSeek-V3: 1e-4)"},
      {BalanceRule::kStep, &BalanceConfig::step_loss, "step_loss", "the same with the loads that the step has seen so far"},
      {BalanceRule::kLocal, &BalanceConfig::local_loss, "local_loss",
       "the same over each rank's tokens alone (Megatron's): the result changes with the layout"},
      {BalanceRule::kZ, &BalanceConfig::z_loss, "z_loss", "router z-loss (arXiv 2202.08906)", true}};
  return kLosses;
}

void BalanceConfig::fields(FieldVisitor& visit) {
  const Range coefficient{.at_least = 0, .at_most = kMostCoefficient};
  for (const BalanceLoss& loss : balance_losses()) visit.number(loss.key, this->*loss.coefficient, coefficient, loss.help);
  visit.number("bias_rate", bias_rate, coefficient, "step of the loss-free bias (arXiv 2408.15664); 0: off");
  visit.choice("bias_law", bias_law, {{"sign", BiasLaw::kSign}, {"proportional", BiasLaw::kProportional}},
               "each step moves an expert's bias by bias_rate, or by bias_rate times what it misses of the mean load");
  visit.choice("bias_schedule", bias_schedule,
               {{"constant", BiasSchedule::kConstant}, {"linear", BiasSchedule::kLinear}, {"cosine", BiasSchedule::kCosine}},
               "of bias_rate over the run's steps, down to 0");
}

double BalanceConfig::coefficient(BalanceRule rule) const {
  const auto losses = balance_losses();
  return this->*std::find_if(losses.begin(), losses.end(), [&](const BalanceLoss& loss) { return loss.rule == rule; })->coefficient;
}

std::vector<BalanceRule> BalanceConfig::rules() const {
  std::vector<BalanceRule> computed;
  for (const BalanceLoss& loss : balance_losses()) {
    if (loss.in_every_run || this->*loss.coefficient > 0) computed.push_back(loss.rule);
  }
  std::sort(computed.begin(), computed.end());
  return computed;
}

}  // namespace pimoe
