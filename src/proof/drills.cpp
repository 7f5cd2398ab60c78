#include "proof/drills.h"

#include "proof/drill_list.h"

namespace pimoe {

const std::vector<Drill>& all_drills() {
  static const std::vector<Drill> list = {
      {"one_expert",
       "All tokens go to one expert: nothing hangs, no token is lost, losses are finite and equal one rank's, and with rank_budget 1 they "
       "stay the same while no more is kept for backward. All tokens on one rank stay inside the memory that `pimoe check` foretells.",
       drills::one_expert},
      {"empty_rank",
       "One rank's experts get no token: it takes part in every exchange, its experts' gradients are exactly zero, losses equal one "
       "rank's.",
       drills::empty_rank},
      {"rotating_hot_spot", "Another expert, on another rank, gets all tokens in each step: loads follow at once, losses equal one rank's.",
       drills::rotating_hot_spot},
      {"ties", "All scores are equal: the lowest expert indices win in every layout, losses equal one rank's.", drills::ties},
      {"one_token", "A step has a single token, so that all ranks but one have none: losses are finite and equal one rank's.",
       drills::one_token},
      {"all_experts", "Every token goes to every expert (K = E): each expert has all tokens, losses equal one rank's.",
       drills::all_experts},
      {"huge_logit",
       "One expert's logits are 1e4 times too large: losses, gradients and weights stay finite, no slot is lost. Under float16 the first "
       "steps may be skipped while the loss scale falls.",
       drills::huge_logit},
      {"nonfinite_input",
       "A token's embedding is NaN for one step: every rank skips the step, no bit of a weight changes, training goes on.",
       drills::nonfinite_input},
      {"uneven_ranks", "Sequences do not divide evenly over the ranks, or are fewer: losses are finite and equal one rank's.",
       drills::uneven_ranks},
  };
  return list;
}

}  // namespace pimoe
