#pragma once

#include "parallel/communicator.h"

#include <memory>
#include <string>

struct ompi_communicator_t;  // MPI_Comm is a pointer to it

namespace pimoe {

/// Collectives over MPI, of host tensors; tensors of a device are staged through the host, so that any layout runs anywhere.
/// @param communicator  becomes its own, and is freed with it  @param name  of the group, for messages and the watchdog
/// @param message_bytes  the longest single message of this communicator and of those split from it; the same on every rank
/// @throws CommError, later, where MPI fails or ranks disagree about what travels
std::unique_ptr<HostCommunicator> make_mpi_communicator(ompi_communicator_t* communicator, const std::string& name, int64_t message_bytes);

}  // namespace pimoe
