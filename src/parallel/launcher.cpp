#include "base/text.h"
#include "parallel/mpi_communicator.h"

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

std::string slurm_trouble(int mpi_size, const std::function<const char*(const char*)>& environment) {
  // mpirun below sbatch says its own size; a batch script's shell has SLURM_NTASKS and SLURM_PROCID, but no step.
  if (mpi_size != 1 || environment("OMPI_COMM_WORLD_SIZE") != nullptr) return "";
  if (environment("SLURM_STEP_ID") == nullptr || environment("SLURM_PROCID") == nullptr) return "";
  const char* tasks = environment("SLURM_STEP_NUM_TASKS");
  if (tasks == nullptr) tasks = environment("SLURM_NTASKS");
  if (tasks == nullptr || std::atoi(tasks) <= 1) return "";
  return concat("srun started ", tasks, " tasks, but MPI sees 1: use srun --mpi=pmix, or mpirun inside the batch script");
}

}  // namespace pimoe
