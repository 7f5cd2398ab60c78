#include "app/run_setup.h"

#include "base/text.h"
#include "parallel/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <thread>

namespace pimoe {
namespace {

const MpiSession& start_mpi(const TrainConfig& config, AppContext& context) {
  // cuBLAS reads it when CUDA starts; without it libtorch refuses products in deterministic mode.
  if (config.run.deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  return context.mpi();
}

}  // namespace

RunSetup::RunSetup(const TrainConfig& config, AppContext& context)
    : session(start_mpi(config, context)), mesh(config.mesh, session.world(), session.node(), config.model.moe.common_divisor()) {
  at::set_num_threads(thread_count(config, mesh));
  use_device(mesh.device());
  if (config.run.deterministic) at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
}

LoadedModel load_whole_model(const std::filesystem::path& checkpoint, AppContext& context) {
  LoadedModel loaded(checkpoint, context.mpi());
  const int threads = thread_count(loaded.config, *loaded.mesh);
  at::set_num_threads(threads);
  context.log.info(concat("loaded ", loaded.folder.string(), ": step ", loaded.step, "; ", threads, threads == 1 ? " thread" : " threads"));
  context.log.info(loaded.proof);
  return loaded;
}

int thread_count(const TrainConfig& config, const ProcessMesh& mesh) {
  if (config.train.threads > 0) return static_cast<int>(config.train.threads);
  if (const char* variable = std::getenv("OMP_NUM_THREADS"); variable != nullptr && std::atoi(variable) > 0) return std::atoi(variable);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  const int bound = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : all;
  return std::max(1, bound < all ? bound : all / mesh.node_size());
}

std::string layout_text(const ProcessMesh& mesh) {
  return concat(mesh.size(), mesh.size() == 1 ? " rank" : " ranks", ", expert_parallel ", mesh.expert_parallel());
}

ExitCode verdict_of_rank_0(const std::string& trouble, const ProcessMesh& mesh) {
  std::cout.flush();
  return mesh.control().broadcast_text(trouble, 0).empty() ? ExitCode::kDone : ExitCode::kCheckSaysNo;
}

}  // namespace pimoe
