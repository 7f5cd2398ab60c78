#pragma once

#include "base/log.h"
#include "checkpoint/rank_share.h"
#include "interop/hf_import.h"
#include "parallel/communicator.h"

#include <cstdint>
#include <filesystem>
#include <string>

namespace pimoe {

/// An imported model as a checkpoint of step 0, as a run has one that has not taken a step: its masters, exactly, and moments of zeros. The tensors are the
/// same whatever layout writes them.

/// By this process alone.
/// @param checkpoint  ".../step-00000000", not there  @param config  resolved, YAML  @param seed  run.seed, of what an upcycled model draws
/// @throws SaveError; DataError as HfImport::fill; nothing is left of the checkpoint
/// @cost   reads the weights once; memory of three parts of 256 MiB
void write_imported(const HfImport& imported, const std::filesystem::path& checkpoint, const std::string& config, uint64_t seed,
                    Logger& log);

/// By all ranks, each its share (share_of_rank), of which it reads the weights alone. Collective.
/// @param folder  of the checkpoint, seen by all ranks  @param expert_parallel  divides the ranks and the experts
/// @throws the same on every rank: SaveError; DataError, IoError as HfImport::fill; nothing is left of the checkpoint
/// @cost   as above on each rank, with its share of the weights
void write_imported(const HfImport& imported, const std::filesystem::path& folder, const std::string& config, uint64_t seed, Logger& log,
                    const HostCommunicator& ranks, int64_t expert_parallel);

}  // namespace pimoe
