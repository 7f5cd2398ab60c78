#include "moe/balance_config.h"

namespace pimoe {

void BalanceConfig::fields(FieldVisitor& visit) {
  const Range coefficient{.at_least = 0, .at_most = kMostCoefficient};
  visit.number("switch_loss", switch_loss, coefficient, "Switch balance loss over all ranks' tokens of a micro-step");
  visit.number("sequence_loss", sequence_loss, coefficient, "the same in each sequence, averaged (DeepSeek-V3: 1e-4)");
  visit.number("step_loss", step_loss, coefficient, "the same with the loads that the step has seen so far");
  visit.number("local_loss", local_loss, coefficient,
               "the same over each rank's tokens alone (Megatron's): the result changes with the layout");
  visit.number("z_loss", z_loss, coefficient, "router z-loss (arXiv 2202.08906)");
  visit.number("bias_rate", bias_rate, coefficient, "step of the loss-free bias (arXiv 2408.15664); 0: off");
  visit.choice("bias_law", bias_law, {{"sign", BiasLaw::kSign}, {"proportional", BiasLaw::kProportional}},
               "each step moves an expert's bias by bias_rate, or by bias_rate times what it misses of the mean load");
  visit.choice("bias_schedule", bias_schedule,
               {{"constant", BiasSchedule::kConstant}, {"linear", BiasSchedule::kLinear}, {"cosine", BiasSchedule::kCosine}},
               "of bias_rate over the run's steps, down to 0");
}

double BalanceConfig::coefficient(BalanceRule rule) const {
  switch (rule) {
    case BalanceRule::kSwitch: return switch_loss;
    case BalanceRule::kZ: return z_loss;
    case BalanceRule::kStep: return step_loss;
    case BalanceRule::kSequence: return sequence_loss;
    case BalanceRule::kLocal: return local_loss;
  }
  return 0.0;
}

std::vector<BalanceRule> BalanceConfig::rules() const {
  std::vector<BalanceRule> computed = {BalanceRule::kSwitch, BalanceRule::kZ};
  for (const BalanceRule rule : {BalanceRule::kStep, BalanceRule::kSequence, BalanceRule::kLocal}) {
    if (coefficient(rule) > 0) computed.push_back(rule);
  }
  return computed;
}

}  // namespace pimoe
