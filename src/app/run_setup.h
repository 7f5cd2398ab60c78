#pragma once

#include "parallel/process_mesh.h"
#include "train/train_config.h"

namespace pimoe {

/// Threads of this rank: train.threads, else OMP_NUM_THREADS (launch/slurm.sbatch sets it), else the cores it is bound to, or where it is bound
/// to none its share of the node's.
int thread_count(const TrainConfig& config, const ProcessMesh& mesh);

}  // namespace pimoe
