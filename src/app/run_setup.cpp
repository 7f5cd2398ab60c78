#include "app/run_setup.h"

#include "base/config_values.h"
#include "base/errors.h"
#include "base/host.h"
#include "base/text.h"
#include "base/utf8.h"
#include "base/work_progress.h"
#include "bench/machine.h"
#include "ops/routed_mlp.h"
#include "parallel/device.h"
#include "parallel/host_device.h"
#include "train/micro_batch.h"
#include "train/precision.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/tensor.h>

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <future>
#include <iostream>
#include <system_error>
#include <thread>
#include <vector>

namespace pimoe {
namespace {

constexpr int kMostThreads = 4096;  // as of train.threads
constexpr int kMostThreadsOfACore = 2;
constexpr int kThreadPools = 2;  // OpenMP's and libtorch's own

ConfigValues values_of(TrainConfig config) {
  return config_values([&config](FieldVisitor& visit) { config.fields(visit); });
}

/// A file that was changed while the job started, or that one node still sees as it was: such ranks would wait for each other for ever, read each
/// other's memory wrongly, or train different models. Collective.
/// @throws ConfigError naming what differs, the same on every rank
void require_same_on_every_rank(const TrainConfig& config, const HostCommunicator& world) {
  if (world.size() == 1) return;
  const std::string here = to_yaml(config);
  const std::string build = world.broadcast_text(built_commit(), 0);
  const std::string of_rank_0 = world.broadcast_text(here, 0);
  std::string trouble;
  if (build != built_commit()) {
    trouble = concat("this pimoe was built of ", built_commit(), ", and rank 0's of ", build, ": every rank must run the same one");
  } else if (here != of_rank_0) {
    const ConfigValues those = values_of(parse_train_config(of_rank_0, "the configuration of rank 0"));
    trouble = concat("the configuration is not that of rank 0:\n  ",
                     join(differing_values(those, "at rank 0", values_of(config), "here"), "\n  "),
                     "\n  Every rank must read the same file, and be given the same overrides.");
  }
  if (const std::string agreed = world.agree(trouble); !agreed.empty()) throw ConfigError(agreed);
}

const MpiSession& start_mpi(const TrainConfig& config, AppContext& context) {
  // cuBLAS reads it when CUDA starts; without it libtorch refuses products in deterministic mode.
  if (config.run.deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  const MpiSession& session = context.mpi();
  require_same_on_every_rank(config, *session.world());
  return session;
}

/// @param text  OMP_NUM_THREADS: threads, or OpenMP's list of them for each level of nesting, of which the first counts here
/// @throws ConfigError  an absurd number would end in a failed start of threads, much later
int outermost_threads(const std::string& text) {
  int first = 0;
  for (const std::string& level : split(text, ',')) {
    int threads = 0;
    const auto [end, error] = std::from_chars(level.data(), level.data() + level.size(), threads);
    if (error != std::errc() || end != level.data() + level.size() || threads < 1 || threads > kMostThreads) {
      throw ConfigError(concat("OMP_NUM_THREADS ('", printable(text), "') must be a whole number from 1 to ", kMostThreads,
                               ", or several with commas between them: unset it, or set train.threads, which is stronger"));
    }
    if (first == 0) first = threads;
  }
  return first;
}

struct Cores {
  int count = 0;
  bool are_own = false;  ///< of this rank, which is bound to them; otherwise the ranks of this host share all of it
};

Cores cores_here() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  const int bound = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : all;
  return {.count = std::min(bound, all), .are_own = bound < all};
}

/// Starts as many threads as libtorch is about to, all at once: where a limit lets it have fewer, its pool would wait for the missing ones for ever.
/// @throws ConfigError
void require_threads(int count) {
  std::promise<void> done;
  const std::shared_future<void> end = done.get_future().share();
  std::vector<std::thread> started;
  std::string trouble;
  try {
    for (int index = 0; index < count; ++index) started.emplace_back([end] { end.wait(); });
  } catch (const std::system_error& error) {  // the contract of std::thread
    trouble = error.code().message();
  }
  done.set_value();
  for (std::thread& thread : started) thread.join();
  if (trouble.empty()) return;
  throw ConfigError(concat("cannot start the threads that computing takes (", count, "; ", started.size(), " could be): ", trouble,
                           ". Raise the limit on processes (ulimit -u) or memory (ulimit -v), or lower train.threads"));
}

/// Collective.
ForecastPlace place_of(const TrainConfig& config, const ProcessMesh& mesh) {
  const c10::Device device = mesh.device();
  return {.ranks = mesh.size(),
          .node_ranks = mesh.node_size(),
          .on_gpu = device.is_cuda(),
          .fuses_mlp = has_routed_mlp_kernels(device),
          .dtype = agreed_dtype(config.train.precision, mesh)};
}

/// As much as the rank with the least free memory can compute at a time. Collective.
int64_t fitting_micro_batch(const TrainConfig& config, const ProcessMesh& mesh, const ForecastPlace& place) {
  const c10::Device device = mesh.device();
  // Ranks that share a device share what is free of it.
  const std::vector<std::string> devices = mesh.control().all_gather_text(concat(device_identity(device), " of ", host_name()));
  const auto sharers = std::count(devices.begin(), devices.end(), devices[static_cast<size_t>(mesh.rank())]);
  int64_t room = free_bytes(device) / std::max<int64_t>(1, sharers);
  // MPI's buffers are in no forecast, and a process that has no memory is killed: a twentieth stays free. The program's pages are there already.
  if (device.is_cpu()) room = std::min(room, free_addresses()) / 20 * 19 + kCpuOverheadBytes;
  at::Tensor least = at::tensor({room}, at::kLong);
  mesh.control().all_reduce(least, ReduceOp::kMin);
  TrainConfig planned = config;
  planned.mesh.expert_parallel = mesh.expert_parallel();
  // Ranks whose threads or CPUs differ may foretell differently, and all must take the same steps.
  at::Tensor chosen = at::tensor({largest_micro_batch(planned, place, std::max<int64_t>(1, least.item<int64_t>()))}, at::kLong);
  mesh.control().all_reduce(chosen, ReduceOp::kMin);
  return chosen.item<int64_t>();
}

}  // namespace

RunSetup::RunSetup(TrainConfig& config, AppContext& context)
    : session(start_mpi(config, context)),
      mesh(config.mesh, session.world(), session.node(), config.model.moe.common_divisor()),
      place(place_of(config, mesh)) {
  use_threads(config, mesh, context.log);
  use_device(mesh.device());
  if (config.train.micro_batch == 0) config.train.micro_batch = fitting_micro_batch(config, mesh, place);
  if (config.run.deterministic) at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
}

LoadedModel load_quietly(const std::filesystem::path& checkpoint, const std::string& what, AppContext& context, ModelSpread spread,
                         const std::function<void(TrainConfig&)>& change) {
  const MpiSession& session = context.mpi();
  std::optional<WorkProgress> progress(std::in_place, what, WorkUnit::kBytes, context.log);
  LoadedModel loaded(checkpoint, session, spread, change);
  progress.reset();
  use_threads(loaded.config, *loaded.mesh, context.log);
  return loaded;
}

LoadedModel load_model(const std::filesystem::path& checkpoint, AppContext& context, ModelSpread spread,
                       const std::function<void(TrainConfig&)>& change) {
  LoadedModel loaded = load_quietly(checkpoint, concat("loading ", checkpoint.string()), context, spread, change);
  const int threads = thread_count(loaded.config, *loaded.mesh);
  const bool several = loaded.mesh->size() > 1;
  context.log.info(concat("loaded ", loaded.folder.string(), ": step ", loaded.step, "; ", several ? layout_text(*loaded.mesh) + ", " : "",
                          counted(threads, "thread"), several ? " a rank" : ""));
  context.log.info(loaded.proof);
  return loaded;
}

int thread_count(const TrainConfig& config, const ProcessMesh& mesh) {
  if (config.train.threads > 0) return static_cast<int>(config.train.threads);
  if (const char* variable = std::getenv("OMP_NUM_THREADS"); variable != nullptr && *variable != '\0') return outermost_threads(variable);
  const Cores cores = cores_here();
  return std::max(1, cores.are_own ? cores.count : cores.count / mesh.node_size());
}

int use_threads(const TrainConfig& config, const ProcessMesh& mesh, Logger& log) {
  const int threads = thread_count(config, mesh);
  if (threads > 1) require_threads(kThreadPools * threads);
  at::set_num_threads(threads);
  const Cores cores = cores_here();
  const int64_t ranks = cores.are_own ? 1 : mesh.node_size();
  if (mesh.rank() == 0 && threads > 1 && threads * ranks > kMostThreadsOfACore * cores.count) {
    log.warning(concat(config.train.threads > 0 ? "train.threads (" : "OMP_NUM_THREADS (", threads,
                       ") is far more than this machine has: ", counted(cores.count, "core"),
                       cores.are_own ? " that this rank is bound to" : concat(" for ", counted(ranks, "rank")),
                       ". Threads that wait for cores slow each other down; train.threads=auto takes ",
                       std::max<int64_t>(1, cores.count / ranks)));
  }
  return threads;
}

std::string layout_text(const ProcessMesh& mesh) {
  return concat(counted(mesh.size(), "rank"), ", expert_parallel ", mesh.expert_parallel());
}

ExitCode verdict_of_rank_0(const std::string& trouble, const ProcessMesh& mesh) {
  std::cout.flush();
  return mesh.control().broadcast_text(trouble, 0).empty() ? ExitCode::kDone : ExitCode::kCheckSaysNo;
}

}  // namespace pimoe
