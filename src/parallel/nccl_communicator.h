#pragma once

#include "parallel/communicator.h"

namespace pimoe {

/// Collectives on device tensors, enqueued on the current CUDA stream; host tensors are refused (ShapeError).
///
/// Groups are split by NCCL unique ids that travel over `host`. NCCL_LAUNCH_ORDER_IMPLICIT=1 is set unless the user set it: kernels of two
/// communicators then start in the order of the host's calls on every rank, so that expert exchange and gradient sums cannot cross.
///
/// @param host    the same ranks; kept by the communicator for `split` and counts
/// @param device  CUDA device index of this rank; each rank of a group needs a GPU of its own (NCCL refuses two ranks on one)
/// @throws CommError if NCCL fails; ConfigError in a build without CUDA.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<HostCommunicator> host, int device);

/// @returns "2.28.9"; "" in a build without CUDA.
std::string nccl_version();

}  // namespace pimoe
