#include "app/train.h"

#include "base/text.h"
#include "parallel/device.h"
#include "train/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <sched.h>

#include <cstdlib>
#include <iostream>
#include <thread>

namespace pimoe {
namespace {

struct TrainOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;
  bool print_config = false;
};

/// Threads of this rank: train.threads, else OMP_NUM_THREADS (launch/slurm.sbatch sets it), else the cores it is bound to, or where it is bound
/// to none its share of the node's.
int thread_count(const TrainConfig& config, const ProcessMesh& mesh) {
  if (config.train.threads > 0) return static_cast<int>(config.train.threads);
  if (const char* variable = std::getenv("OMP_NUM_THREADS"); variable != nullptr && std::atoi(variable) > 0) return std::atoi(variable);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  const int bound = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : all;
  return std::max(1, bound < all ? bound : all / mesh.node_size());
}

ExitCode train(const TrainOptions& options, AppContext& context) {
  Logger& log = context.log;
  TrainConfig config = load_train_config(options.config, options.overrides);
  if (options.print_config) {
    if (MpiSession::launcher_rank() == 0) std::cout << to_yaml(config);
    return ExitCode::kDone;
  }
  const MpiSession& session = context.mpi();
  const StopRequest stop;
  const ProcessMesh mesh(config.mesh, session.world(), session.node(), config.model.moe.experts);
  at::set_num_threads(thread_count(config, mesh));
  use_device(mesh.device());
  if (config.run.deterministic) at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  log.open_file(config.run.directory / "log" / concat("rank-", padded(mesh.rank(), 4), ".log"));
  Trainer trainer(config, mesh, log, &stop);
  return trainer.run() == TrainOutcome::kStopped ? ExitCode::kRequeue : ExitCode::kDone;
}

}  // namespace

void add_train_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Train a model; under mpirun or srun on all their ranks. Resumes where the run stopped");
  command->add_option("config", options->config, "configuration file (YAML)")->required();
  command->add_option("overrides", options->overrides, "key.path=value, stronger than the file");
  command->add_flag("--print-config", options->print_config, "print the resolved configuration and leave");
  command->footer(
      "Example:\n  mpirun -n 4 pimoe train configs/quickstart.yaml mesh.expert_parallel=2 train.steps=500\n"
      "Leaves with 75 when SIGUSR1, SIGTERM or Ctrl-C asked it to save and stop; the same command then goes on.");
  command->callback([options, &context] { context.action = [options, &context] { return train(*options, context); }; });
}

}  // namespace pimoe
