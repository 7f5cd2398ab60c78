#pragma once

#include "proof/drills.h"

namespace pimoe::drills {

/// The drills that all_drills() lists, which says what each must hold. Seen by drills.cpp and the files that have them.

// skew_drills.cpp: experts and ranks with all tokens, or none.
DrillOutcome one_expert(const DrillPlace& place);
DrillOutcome empty_rank(const DrillPlace& place);
DrillOutcome rotating_hot_spot(const DrillPlace& place);
DrillOutcome ties(const DrillPlace& place);
DrillOutcome all_experts(const DrillPlace& place);

// fault_drills.cpp: batches that do not go round, and numbers out of range.
DrillOutcome one_token(const DrillPlace& place);
DrillOutcome uneven_ranks(const DrillPlace& place);
DrillOutcome huge_logit(const DrillPlace& place);
DrillOutcome nonfinite_input(const DrillPlace& place);

}  // namespace pimoe::drills
