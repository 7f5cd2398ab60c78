#pragma once

#include "parallel/process_mesh.h"

#include <nlohmann/json_fwd.hpp>

#include <string>

namespace pimoe {

/// What a benchmark ran on: cpu, cores, threads of a rank, device (what tensors live on), gpu (null without one), ranks, hosts, expert_parallel,
/// transport, precision, and versions of libraries by name (nccl and cuda in builds that have them). The same on every rank. Collective.
nlohmann::ordered_json machine_facts(const ProcessMesh& mesh, at::ScalarType dtype);

/// @returns the version that was built, and its commit: "2ba79dc", "2ba79dc-dirty" with changes that were not committed, "unknown" outside of a clone
std::string built_version();
std::string built_commit();

}  // namespace pimoe
