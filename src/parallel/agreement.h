#pragma once

#include "parallel/communicator.h"

#include <functional>

namespace pimoe {

/// Does what each rank does by itself, most of it on files. Where it fails on one rank, every rank throws that: a rank that throws alone leaves the
/// others waiting. Collective.
/// @param work  no collective of its own
/// @throws what `work` threw on the lowest rank where it did, with that rank's number in front unless all ranks say the same: UsageError, ConfigError,
///         DataError, CheckpointError, IoError, and Error for everything else
void do_together(const HostCommunicator& ranks, const std::function<void()>& work);

}  // namespace pimoe
