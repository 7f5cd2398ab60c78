#pragma once

#include "checkpoint/snapshot.h"

#include <string>

namespace pimoe {

/// Whether a run can have been in the state that a checkpoint tells of: a digest keeps damage out, but not what somebody wrote with a digest of its own,
/// and a count that no run reaches would overflow, or keep one busy for ever.
/// @param saved       what was restored: step, numbers and counters
/// @param checkpoint  for the message
/// @throws CheckpointError naming the first that is not possible, its value and the rule
void require_possible(const Snapshot& saved, const std::string& checkpoint);

}  // namespace pimoe
