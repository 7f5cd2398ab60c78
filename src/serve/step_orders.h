#pragma once

#include "parallel/communicator.h"
#include "serve/step_runner.h"

#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// What rank 0 tells the others to do next.
struct StepOrder {
  enum class Kind : int64_t {
    kStep,    ///< `steps`
    kIdle,    ///< nothing until rank 0 is back: all wait in a patient barrier
    kLoad,    ///< to add up what experts got
    kReload,  ///< to read `checkpoint` beside the model that there is
    kSwitch,  ///< to take the model that was read last
    kEnd,
  };
  Kind kind = Kind::kIdle;
  bool experts = false;
  std::vector<RankStep> steps = {};
  std::string checkpoint = {};
};

/// Collective: rank 0's order, on every rank. A group of one communicates nothing.
StepOrder ordered_by_rank_0(StepOrder order, const HostCommunicator& ranks);

}  // namespace pimoe
