#pragma once

/// MPI and meshes for tests, in programs under mpirun (ranks_main.cpp) and alone (unit_main.cpp: a world of one).

#include "parallel/process_mesh.h"

#include <memory>

namespace pimoe {

/// The one MPI session of this test program; begun by the first call.
const MpiSession& test_session();

/// @returns a MeshConfig for host tensors, whatever devices the machine has.
MeshConfig cpu_mesh(int64_t expert_parallel = 0);

/// A mesh over this rank alone.
std::unique_ptr<ProcessMesh> single_mesh(const MeshConfig& config = cpu_mesh(), int64_t experts = 0);

/// A mesh over all ranks. Collective.
std::unique_ptr<ProcessMesh> world_mesh(const MeshConfig& config = cpu_mesh(), int64_t experts = 0);

/// Cuts the world into consecutive groups of `ranks` and gives each its own mesh, so that one job can compare layouts of 1, 2 and 4 ranks.
/// Collective over the world. @returns nothing on ranks that are left over.
std::unique_ptr<ProcessMesh> sub_mesh(int ranks, const MeshConfig& config = cpu_mesh(), int64_t experts = 0);

}  // namespace pimoe
