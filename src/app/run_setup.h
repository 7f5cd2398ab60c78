#pragma once

#include "app/command.h"
#include "parallel/mpi_session.h"
#include "parallel/process_mesh.h"
#include "train/forecast.h"
#include "train/loaded_model.h"
#include "train/train_config.h"

#include <filesystem>
#include <functional>
#include <string>

namespace pimoe {

/// What every command under mpirun begins with: MPI, the mesh, this rank's threads and device, and deterministic operations where they are asked
/// for. Collective.
struct RunSetup {
  /// @param config  train.micro_batch auto becomes a number, the same on every rank
  RunSetup(TrainConfig& config, AppContext& context);

  const MpiSession& session;
  const ProcessMesh mesh;
  const ForecastPlace place;  ///< this job's, for forecasts
};

/// A checkpoint's model, with train.threads of its configuration; loaded_model.h says what the rest is. With kShared collective.
LoadedModel load_model(const std::filesystem::path& checkpoint, AppContext& context, ModelSpread spread,
                       const std::function<void(TrainConfig&)>& change = nullptr);

/// The same, of which the log says nothing but its progress. @param what  "loading runs/mine"
LoadedModel load_quietly(const std::filesystem::path& checkpoint, const std::string& what, AppContext& context, ModelSpread spread,
                         const std::function<void(TrainConfig&)>& change = nullptr);

/// Gives this process its threads for computing; where they are far more than the cores that the ranks of this host share, rank 0 warns. @returns them
int use_threads(const TrainConfig& config, const ProcessMesh& mesh, Logger& log);

/// Threads of this rank: train.threads, else OMP_NUM_THREADS (launch/slurm.sbatch sets it), else the cores it is bound to, or where it is bound
/// to none its share of the node's. @throws ConfigError where OMP_NUM_THREADS is no number of threads
int thread_count(const TrainConfig& config, const ProcessMesh& mesh);

/// "4 ranks, expert_parallel 2"
std::string layout_text(const ProcessMesh& mesh);

/// Everyone leaves with rank 0's verdict, and after it has been printed: mpirun ends the others when one leaves with an error. Collective.
/// @param trouble  on rank 0: what is wrong, "" where nothing is
ExitCode verdict_of_rank_0(const std::string& trouble, const ProcessMesh& mesh);

}  // namespace pimoe
