#pragma once

#include "parallel/communicator.h"
#include "parallel/direct_exchange.h"

#include <memory>

struct ompi_communicator_t;  // MPI_Comm is a pointer to it

namespace pimoe {

/// Of host tensors, in memory that processes of one node share. Collective; the same on every rank.
/// @param communicator  of the group  @param host, progress  its own; progress must outlive the exchange
/// @returns nullptr where the ranks are not all on one node, or are more than kDirectRanks
/// @throws CommError, later, where the node has too little shared memory for a call's rows
std::unique_ptr<DirectExchange> make_mpi_direct_exchange(ompi_communicator_t* communicator, const HostCommunicator& host,
                                                         const ProgressCounter& progress);

}  // namespace pimoe
