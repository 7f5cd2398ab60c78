#include "app/run_setup.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

namespace pimoe {

int thread_count(const TrainConfig& config, const ProcessMesh& mesh) {
  if (config.train.threads > 0) return static_cast<int>(config.train.threads);
  if (const char* variable = std::getenv("OMP_NUM_THREADS"); variable != nullptr && std::atoi(variable) > 0) return std::atoi(variable);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  const int bound = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : all;
  return std::max(1, bound < all ? bound : all / mesh.node_size());
}

}  // namespace pimoe
