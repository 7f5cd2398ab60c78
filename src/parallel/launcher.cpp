#include "base/text.h"
#include "parallel/mpi_session.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace pimoe {

int MpiSession::launcher_rank() {
  const bool in_slurm_step = std::getenv("SLURM_STEP_ID") != nullptr;  // a batch script has a SLURM_PROCID too
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && (in_slurm_step || std::strcmp(name, "SLURM_PROCID") != 0)) return std::atoi(value);
  }
  return 0;
}

namespace {

/// Tasks of the srun step that this process is in; 0: it is in none. A batch script's shell has SLURM_NTASKS and SLURM_PROCID, but no step.
int slurm_step_tasks(const Environment& environment) {
  if (environment("SLURM_STEP_ID") == nullptr || environment("SLURM_PROCID") == nullptr) return 0;
  const char* tasks = environment("SLURM_STEP_NUM_TASKS");
  if (tasks == nullptr) tasks = environment("SLURM_NTASKS");
  return tasks == nullptr ? 0 : std::atoi(tasks);
}

}  // namespace

int launched_processes(const Environment& environment) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    if (const char* size = environment(name); size != nullptr) return std::max(1, std::atoi(size));
  }
  return std::max(1, slurm_step_tasks(environment));
}

std::string slurm_trouble(int mpi_size, const Environment& environment) {
  // mpirun below sbatch says its own size.
  if (mpi_size != 1 || environment("OMPI_COMM_WORLD_SIZE") != nullptr) return "";
  const int tasks = slurm_step_tasks(environment);
  if (tasks <= 1) return "";
  return concat("srun started ", tasks, " tasks, but MPI sees 1: use srun --mpi=pmix, or mpirun inside the batch script");
}

}  // namespace pimoe
