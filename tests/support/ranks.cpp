#include "support/ranks.h"

namespace pimoe {

const MpiSession& test_session() {
  static int no_arguments = 0;
  static char** arguments = nullptr;
  static const MpiSession session(no_arguments, arguments);
  return session;
}

MeshConfig cpu_mesh(int64_t expert_parallel) {
  MeshConfig config;
  config.expert_parallel = expert_parallel;
  config.device = DeviceChoice::kCpu;
  return config;
}

std::unique_ptr<ProcessMesh> single_mesh(const MeshConfig& config, int64_t experts) {
  return std::make_unique<ProcessMesh>(config, test_session().self(), test_session().self(), experts);
}

std::unique_ptr<ProcessMesh> world_mesh(const MeshConfig& config, int64_t experts) {
  return std::make_unique<ProcessMesh>(config, test_session().world(), test_session().node(), experts);
}

std::unique_ptr<ProcessMesh> sub_mesh(int ranks, const MeshConfig& config, int64_t experts) {
  const std::unique_ptr<HostCommunicator> all = test_session().world();
  const int color = all->rank() / ranks;
  std::unique_ptr<HostCommunicator> world = all->split_host(color, all->rank(), "world");
  std::unique_ptr<HostCommunicator> node = test_session().node()->split_host(color, all->rank(), "node");
  if (world->size() < ranks) return nullptr;
  return std::make_unique<ProcessMesh>(config, std::move(world), std::move(node), experts);
}

}  // namespace pimoe
