#pragma once

#include "moe/dispatcher.h"
#include "moe/expert_placement.h"
#include "moe/moe_config.h"
#include "parallel/communicator.h"

#include <memory>

namespace pimoe {

/// What a dispatcher has to move.
struct Cargo {
  c10::Device device;
  int64_t row_bytes = 0;  ///< of a token
};

/// @param group  the expert group; must outlive the dispatcher
/// @throws ConfigError where `direct` is asked for and some ranks of a group do not reach each other's memory; on every rank alike
std::unique_ptr<Dispatcher> make_dispatcher(const ExpertPlacement& placement, const Communicator& group, const MoeConfig& config,
                                            const Cargo& cargo);

}  // namespace pimoe
