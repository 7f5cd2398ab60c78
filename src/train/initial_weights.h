#pragma once

#include "checkpoint/snapshot.h"

#include <functional>
#include <vector>

namespace pimoe {

/// Gives a run that begins the weights that model.initial_weights names: fills this rank's masters, and states of the kind kState, and leaves moments as they
/// are. It may throw on one rank alone; the trainer sees to the others.
using InitialWeights = std::function<void(const std::vector<StatePiece>& pieces)>;

}  // namespace pimoe
