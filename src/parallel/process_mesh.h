#pragma once

#include "base/config_fields.h"
#include "parallel/communicator.h"
#include "parallel/mpi_session.h"

#include <c10/core/Device.h>

#include <memory>

namespace pimoe {

class SideStream;

enum class Transport { kAuto, kNccl, kMpi };
enum class DeviceChoice { kAuto, kCpu, kCuda };

/// `mesh:` in the configuration.
struct MeshConfig {
  int64_t expert_parallel = 0;  ///< ranks that share out the experts; 0 is auto
  Transport transport = Transport::kAuto;
  DeviceChoice device = DeviceChoice::kAuto;

  void fields(FieldVisitor& visit);
};

/// Callers name what they mean, so that pipeline, tensor and context parallelism change no caller. Today kWorld = kBatch = kDense.
enum class Group {
  kWorld,
  kBatch,          ///< ranks that share out a step's tokens
  kDense,          ///< copies of a dense weight
  kExpert,         ///< ranks that share out the experts; varies fastest, so that it stays inside a node
  kExpertReplica,  ///< copies of the same experts
};

/// @param asked       mesh.expert_parallel, 0 for auto
/// @param experts     of the model; 0 for a dense one
/// @param node_ranks  the largest number that divides the ranks of each node
/// @returns ranks that share out the experts; for auto the largest divisor of `node_ranks` that divides `experts`, 1 for a dense model.
/// @throws ConfigError if `asked` does not divide `ranks`, or shares out experts that are not there. That it divides `experts` is for those
///         who know their shapes to say (moe_config.h, spread_trouble).
int choose_expert_parallel(int64_t asked, int64_t experts, int64_t ranks, int64_t node_ranks);

/// A layout that nobody has started, as one of its ranks would see it.
struct PlannedMesh {
  int64_t ranks = 1;
  int64_t expert_parallel = 1;  ///< divides ranks
  int64_t rank = 0;
};

/// How P ranks are laid out: rank r holds expert shard r % X of its expert group r / X, X = expert_parallel.
class ProcessMesh {
 public:
  /// @param world, node  all ranks, and those on this node
  /// @param experts      of the model; 0 for a dense one. `auto` takes the largest divisor of the ranks on a node that divides it.
  /// @throws ConfigError naming key, value and rule: expert_parallel does not divide the ranks; transport nccl without one GPU for
  ///         each rank of the node ("4 ranks on node07 but 2 GPUs: start at most 2 ranks a node, or mesh.transport=mpi"); cuda not built in.
  /// Collective over the world.
  ProcessMesh(const MeshConfig& config, std::unique_ptr<HostCommunicator> world, std::unique_ptr<HostCommunicator> node, int64_t experts);
  /// A mesh for whoever wants to know what a rank would hold: no MPI, device() is `meta`, whose tensors have shapes and no memory, and every
  /// collective is a CommError.
  explicit ProcessMesh(const PlannedMesh& plan);
  ~ProcessMesh();

  int rank() const;
  int size() const;
  int node_rank() const;
  int node_size() const;
  int expert_parallel() const;
  c10::Device device() const;
  Transport transport() const;  ///< kNccl or kMpi

  /// Collectives on tensors of device().
  const Communicator& group(Group group) const;
  /// As group(), but a communicator of its own for gradient sums, which may overlap with other collectives; none for kExpert (ShapeError).
  const Communicator& gradient_group(Group group) const;
  /// The control plane over all ranks, on the host.
  const HostCommunicator& control() const;
  /// For what computes while tokens travel. One for all layers: what memory a stream gives back, it alone takes again. REQUIRES a layout that was started
  SideStream& side_stream() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A mesh of this rank alone, whatever layout `config` asks for; its device is config's. The other ranks may be anywhere.
ProcessMesh one_rank_mesh(MeshConfig config, const MpiSession& session, int64_t experts);

}  // namespace pimoe
