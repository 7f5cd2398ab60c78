#include "base/errors.h"
#include "parallel/nccl_communicator.h"

namespace pimoe {

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<HostCommunicator> /*host*/, int /*device*/) {
  throw ConfigError("mesh.transport (nccl) needs a build with CUDA: build with PIMOE_CUDA=ON, or set mesh.transport=mpi");
}

std::string nccl_version() { return ""; }

}  // namespace pimoe
