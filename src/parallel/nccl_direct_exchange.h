#pragma once

#include "parallel/communicator.h"
#include "parallel/direct_exchange.h"

#include <memory>

struct ncclComm;

namespace pimoe {

/// Over NVLink, on the current CUDA stream. Collective; the same on every rank.
/// @param communicator, host, progress  of the group; must outlive the exchange
/// @returns nullptr where the ranks do not all reach each other's memory, or are more than kDirectRanks
std::unique_ptr<DirectExchange> make_nccl_direct_exchange(ncclComm* communicator, const HostCommunicator& host,
                                                          const ProgressCounter& progress);

}  // namespace pimoe
