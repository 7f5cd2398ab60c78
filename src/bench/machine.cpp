#include "bench/machine.h"

#include "base/hdf5_file.h"
#include "base/host.h"
#include "parallel/device.h"
#include "parallel/mpi_session.h"
#include "parallel/nccl_communicator.h"
#include "train/precision.h"

#include <ATen/Parallel.h>
#include <torch/version.h>
#include <nlohmann/json.hpp>

#include <set>
#include <thread>

namespace pimoe {
namespace {

int64_t count_hosts(const ProcessMesh& mesh) {
  const std::vector<std::string> names = mesh.control().all_gather_text(host_name());
  return static_cast<int64_t>(std::set<std::string>(names.begin(), names.end()).size());
}

}  // namespace

nlohmann::ordered_json machine_facts(const ProcessMesh& mesh, at::ScalarType dtype) {
  const c10::Device device = mesh.device();
  nlohmann::ordered_json libraries = {{"libtorch", TORCH_VERSION}, {"mpi", MpiSession::library()}, {"hdf5", hdf5_version()}};
  if (const std::string nccl = nccl_version(); !nccl.empty()) libraries["nccl"] = nccl;
  if (const std::string cuda = cuda_version(); !cuda.empty()) libraries["cuda"] = cuda;
  nlohmann::ordered_json facts = {{"cpu", device_name(c10::Device(c10::DeviceType::CPU))},
                                  {"cores", std::thread::hardware_concurrency()},
                                  {"threads", at::get_num_threads()},
                                  {"device", device_name(device)},
                                  {"gpu", nullptr},
                                  {"ranks", mesh.size()},
                                  {"hosts", count_hosts(mesh)},
                                  {"expert_parallel", mesh.expert_parallel()},
                                  {"transport", mesh.transport() == Transport::kNccl ? "NCCL" : "MPI"},
                                  {"precision", dtype_name(dtype)},
                                  {"libraries", libraries}};
  if (device.is_cuda()) facts["gpu"] = device_name(device);
  return facts;
}

std::string built_version() { return PIMOE_VERSION; }

}  // namespace pimoe
