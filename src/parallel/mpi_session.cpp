#include "parallel/mpi_session.h"

#include "base/errors.h"
#include "base/text.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_errors.h"

#include <mpi.h>

#include <cstdlib>

namespace pimoe {
namespace {

std::unique_ptr<HostCommunicator> duplicate(MPI_Comm communicator, const std::string& name, int64_t message_bytes) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(communicator, &copy), "MPI_Comm_dup for " + name);
  return make_mpi_communicator(copy, name, message_bytes);
}

}  // namespace

MpiSession::MpiSession(int& argc, char**& argv) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized) throw CommError("MPI is initialised already; a process has one MpiSession in its life");
  // Started alone, Open MPI forks a daemon for MPI_Comm_spawn, which nobody here calls: a third of the start-up time.
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) setenv("OMPI_MCA_ess_singleton_isolated", "1", /*overwrite=*/0);
  const auto environment = [](const char* name) { return std::getenv(name); };
  // Without PMIx, Open MPI ends the process within MPI_Init with advice about its own build: speak first.
  if (environment("PMIX_RANK") == nullptr) {
    const std::string alone = slurm_trouble(1, environment);
    if (!alone.empty()) throw UsageError(alone);
  }
  int provided = 0;
  check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const std::string alone = slurm_trouble(size, environment);
  std::string trouble;
  if (provided < MPI_THREAD_MULTIPLE) {
    trouble = concat("MPI offers thread level ", provided, "; MPI_THREAD_MULTIPLE (", MPI_THREAD_MULTIPLE,
                     ") is needed: backward calls MPI from its own thread");
  }
  if (trouble.empty() && alone.empty()) return;
  MPI_Finalize();
  if (!alone.empty()) throw UsageError(alone);
  throw CommError(trouble);
}

MpiSession::~MpiSession() { MPI_Finalize(); }

int MpiSession::size() const {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

std::unique_ptr<HostCommunicator> MpiSession::world(int64_t message_bytes) const {
  return duplicate(MPI_COMM_WORLD, "world", message_bytes);
}

std::unique_ptr<HostCommunicator> MpiSession::self() const { return duplicate(MPI_COMM_SELF, "self", kMessageBytes); }

std::unique_ptr<HostCommunicator> MpiSession::node() const {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm here = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &here), "MPI_Comm_split_type");
  return make_mpi_communicator(here, "node", kMessageBytes);
}

std::string MpiSession::library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string whole(text, static_cast<size_t>(length));
  return whole.substr(0, whole.find_first_of(",\n"));  // Open MPI goes on with who built it
}

void MpiSession::abort(int exit_code) {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized && !finalized) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace pimoe
