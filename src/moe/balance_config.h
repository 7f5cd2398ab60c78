#pragma once

#include "base/config_fields.h"

#include <span>
#include <vector>

namespace pimoe {

/// The most that a coefficient, a rate or a scale can be: far beyond any use, and far from what a float32 cannot hold.
inline constexpr double kMostCoefficient = 1e6;

/// How far a step moves an expert's bias; update_bias has the formulas.
enum class BiasLaw { kSign, kProportional };
enum class BiasSchedule { kConstant, kLinear, kCosine };

/// The balance losses; balance.h has the formulas.
enum class BalanceRule { kSwitch, kZ, kStep, kSequence, kLocal };

/// `model.moe.balance:` each rule with its coefficient; 0 turns it off, and any of them work together. balance.h has the formulas.
struct BalanceConfig {
  double switch_loss = 1e-2;                             ///< f and P over all ranks' tokens of one micro-step
  double sequence_loss = 0.0;                            ///< in each sequence, averaged
  double step_loss = 0.0;                                ///< f over what the step has seen so far
  double local_loss = 0.0;                               ///< over this rank's tokens alone, as Megatron's aux_loss: changes with the layout
  double z_loss = 1e-3;                                  ///< times the mean of logsumexp(logits)^2
  double bias_rate = 0.0;                                ///< step of the loss-free bias after each step
  BiasLaw bias_law = BiasLaw::kSign;                     ///< update_bias has both
  BiasSchedule bias_schedule = BiasSchedule::kConstant;  ///< of bias_rate over the run, down to 0

  bool operator==(const BalanceConfig&) const = default;
  void fields(FieldVisitor& visit);
  double coefficient(BalanceRule rule) const;
  /// The rules that are computed: the Switch and the z-loss, which every run reports, and what else has a coefficient. In the enum's order.
  std::vector<BalanceRule> rules() const;
};

/// One balance loss: all that is said of it but its formula, which balance.cpp has.
struct BalanceLoss {
  BalanceRule rule;
  double BalanceConfig::*coefficient;
  const char* key;
  const char* help;
  bool in_every_run = false;  ///< computed and reported without a coefficient too
};

/// Every balance loss, in the order in which a configuration is printed.
std::span<const BalanceLoss> balance_losses();

}  // namespace pimoe
