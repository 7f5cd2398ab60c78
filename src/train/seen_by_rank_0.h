#pragma once

#include "parallel/communicator.h"

#include <functional>
#include <string>

namespace pimoe {

/// What `look` returns on rank 0, on every rank; what it throws there, every rank throws: a file system that many ranks ask at once may answer
/// each of them differently, and a rank that throws alone leaves the others waiting. Collective.
/// @throws ConfigError, IoError (also for a std::filesystem::filesystem_error), or CheckpointError for every other Error
std::string seen_by_rank_0(const HostCommunicator& ranks, const std::function<std::string()>& look);

}  // namespace pimoe
