#pragma once

#include "parallel/communicator.h"

#include <functional>

namespace pimoe {

/// MPI_Init_thread with MPI_THREAD_MULTIPLE for the life of the process: CUDA backward runs on autograd's own thread and calls MPI there.
///
/// Destroyed in an orderly end it calls MPI_Finalize. `abort` ends every rank at once.
class MpiSession {
 public:
  /// @throws CommError if MPI offers less than MPI_THREAD_MULTIPLE
  /// @throws UsageError if Slurm started SLURM_NTASKS > 1 tasks of which each is an MPI world of its own ("srun started 4 tasks, but MPI sees
  ///         1: use srun --mpi=pmix ...")
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  /// Ranks that the launcher started.
  int size() const;

  /// The longest single message: MPI counts in ints, so that longer ones are cut.
  static constexpr int64_t kMessageBytes = int64_t{1} << 30;

  /// All ranks.
  /// @param message_bytes  the longest single message of this communicator and of those split from it; the same on every rank
  std::unique_ptr<HostCommunicator> world(int64_t message_bytes = kMessageBytes) const;
  /// This rank alone: a world of one (references in tests, tools under mpirun).
  std::unique_ptr<HostCommunicator> self() const;
  /// Ranks that share this node's memory (MPI_COMM_TYPE_SHARED), in world order.
  std::unique_ptr<HostCommunicator> node() const;

  /// MPI_Abort: ends the job's every rank with `exit_code`; a rank that leaves quietly would leave its peers waiting.
  [[noreturn]] static void abort(int exit_code);
  /// This rank before MPI is up, from the launcher's environment; 0 if started alone.
  static int launcher_rank();
  /// @returns what the MPI library says of itself, its first words: "Open MPI v4.1.4"
  static std::string library();
};

/// std::getenv, or a test's.
using Environment = std::function<const char*(const char*)>;

/// @returns processes that mpirun or srun started of this command, without starting MPI; 1 if it was started alone.
int launched_processes(const Environment& environment);

/// @param mpi_size  size of the MPI world
/// @returns "" or why Slurm's tasks do not form one MPI world: inside an srun step of several tasks, each of them sees itself alone.
std::string slurm_trouble(int mpi_size, const Environment& environment);

}  // namespace pimoe
