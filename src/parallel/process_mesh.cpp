#include "parallel/process_mesh.h"

#include "base/errors.h"
#include "base/host.h"
#include "base/text.h"
#include "parallel/device.h"
#include "parallel/nccl_communicator.h"
#include "parallel/planned_communicator.h"

#include <numeric>
#include <set>

namespace pimoe {
namespace {

std::string divisors_text(int64_t a, int64_t b) {
  std::vector<std::string> words;
  for (int64_t candidate = 1; candidate <= a; ++candidate) {
    if (a % candidate == 0 && b % candidate == 0) words.push_back(std::to_string(candidate));
  }
  return join(words, ", ");
}

/// The same error on every rank, or nowhere: a rank that throws alone leaves the others waiting.
void agree_or_throw(const HostCommunicator& world, const std::string& trouble) {
  const std::string first = world.agree(trouble);
  if (!first.empty()) throw ConfigError(first);
}

/// @returns the largest number that divides the ranks of each node.
int64_t common_node_size(const HostCommunicator& world, const HostCommunicator& node) {
  int64_t common = 0;
  for (const std::string& size : world.all_gather_text(std::to_string(node.size()))) common = std::gcd(common, std::stoll(size));
  return common;
}

c10::Device choose_device(DeviceChoice choice, const HostCommunicator& world, const HostCommunicator& node) {
  const int gpus = choice == DeviceChoice::kCpu ? 0 : gpu_count();
  bool anywhere = choice == DeviceChoice::kCuda;
  for (const std::string& count : world.all_gather_text(std::to_string(gpus))) anywhere = anywhere || count != "0";
  if (!anywhere) return c10::Device(c10::DeviceType::CPU);
  std::string trouble;
  if (gpus == 0) {
    trouble = concat("mesh.device (", choice == DeviceChoice::kCuda ? "cuda" : "auto", "): ", host_name(), " has no visible GPU",
                     choice == DeviceChoice::kCuda ? "" : " while other ranks have",
                     "; set mesh.device=cpu, or look at CUDA_VISIBLE_DEVICES,", " the driver, and that PiMoE was built with PIMOE_CUDA=ON");
  }
  agree_or_throw(world, trouble);
  return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(node.rank() % gpus));
}

Transport choose_transport(Transport choice, c10::Device device, const HostCommunicator& world, const HostCommunicator& node) {
  if (device.is_cpu()) {
    if (choice == Transport::kNccl) throw ConfigError("mesh.transport (nccl) needs mesh.device cuda; this run's device is cpu");
    return Transport::kMpi;
  }
  if (choice == Transport::kMpi) return Transport::kMpi;
  const std::vector<std::string> devices = node.all_gather_text(device_identity(device));
  const auto distinct = static_cast<int>(std::set<std::string>(devices.begin(), devices.end()).size());
  std::string trouble;
  if (distinct < node.size()) {
    trouble = concat(node.size(), " ranks on ", host_name(), " but ", distinct, " GPUs: start at most ", distinct,
                     " ranks a node, or mesh.transport=mpi");
  }
  if (choice == Transport::kAuto) return world.agree(trouble).empty() ? Transport::kNccl : Transport::kMpi;
  agree_or_throw(world, trouble);
  return Transport::kNccl;
}

}  // namespace

int choose_expert_parallel(int64_t asked, int64_t experts, int64_t ranks, int64_t node_ranks) {
  if (asked == 0) {
    if (experts == 0) return 1;
    int64_t best = 1;
    for (int64_t candidate = 2; candidate <= node_ranks; ++candidate) {
      if (node_ranks % candidate == 0 && experts % candidate == 0) best = candidate;
    }
    return static_cast<int>(best);
  }
  if (experts == 0 && asked > 1) {
    throw ConfigError(concat("mesh.expert_parallel (", asked, ") must be 1 or auto: the model has no experts (model.moe.experts 0)"));
  }
  if (ranks % asked != 0) {
    throw ConfigError(concat("mesh.expert_parallel (", asked, ") must divide the ", ranks, " ranks. Nearest that works: expert_parallel ",
                             divisors_text(ranks, experts), ", or ", ranks > asked ? concat(ranks / asked * asked, " or ") : std::string(),
                             (ranks / asked + 1) * asked, " ranks"));
  }
  return static_cast<int>(asked);
}

void MeshConfig::fields(FieldVisitor& visit) {
  visit.integer_or_auto("expert_parallel", expert_parallel, {.at_least = 1, .at_most = 1 << 20},
                        "ranks that share out the experts; auto: the largest divisor of a node's ranks that divides the experts");
  visit.choice("transport", transport, {{"auto", Transport::kAuto}, {"nccl", Transport::kNccl}, {"mpi", Transport::kMpi}},
               "what carries tensors between ranks; auto: nccl where every rank has a GPU of its own, else mpi");
  visit.choice("device", device, {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}},
               "where tensors live; auto: cuda where a GPU is visible");
}

struct ProcessMesh::State {
  std::unique_ptr<HostCommunicator> world;
  std::unique_ptr<HostCommunicator> node;
  int expert_parallel = 1;
  c10::Device device{c10::DeviceType::CPU};
  Transport transport = Transport::kMpi;
  // Groups of the same ranks share one communicator.
  std::shared_ptr<Communicator> dense;
  std::shared_ptr<Communicator> expert;
  std::shared_ptr<Communicator> expert_replica;
  std::shared_ptr<Communicator> dense_gradients;
  std::shared_ptr<Communicator> expert_replica_gradients;
  std::unique_ptr<SideStream> side;

  std::shared_ptr<Communicator> make(int color, const std::string& name) const {
    std::unique_ptr<HostCommunicator> host = world->split_host(color, world->rank(), name);
    if (transport == Transport::kMpi) return host;
    return make_nccl_communicator(std::move(host), device.index());
  }
};

ProcessMesh::ProcessMesh(const MeshConfig& config, std::unique_ptr<HostCommunicator> world, std::unique_ptr<HostCommunicator> node,
                         int64_t experts)
    : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.world = std::move(world);
  state.node = std::move(node);
  state.expert_parallel = choose_expert_parallel(config.expert_parallel, experts, size(), common_node_size(*state.world, *state.node));
  state.device = choose_device(config.device, *state.world, *state.node);
  state.transport = choose_transport(config.transport, state.device, *state.world, *state.node);
  use_device(state.device);
  state.side = std::make_unique<SideStream>(state.device, SideStream::Priority::kLow);

  const int shards = state.expert_parallel;
  const bool is_of_experts_too = shards == size() && size() > 1;
  state.dense = state.make(0, is_of_experts_too ? "dense and expert" : "dense");
  state.dense_gradients = state.make(0, "dense gradient");
  state.expert = shards == size() ? state.dense : state.make(rank() / shards, "expert");
  state.expert_replica = shards == 1 ? state.dense : state.make(rank() % shards, "expert replica");
  state.expert_replica_gradients = shards == 1 ? state.dense_gradients : state.make(rank() % shards, "expert replica gradient");
}

ProcessMesh::ProcessMesh(const PlannedMesh& plan) : state_(std::make_unique<State>()) {
  State& state = *state_;
  const auto group = [](int64_t rank, int64_t size) {
    return std::make_unique<PlannedCommunicator>(static_cast<int>(rank), static_cast<int>(size));
  };
  state.world = group(plan.rank, plan.ranks);
  state.node = group(0, 1);
  state.expert_parallel = static_cast<int>(plan.expert_parallel);
  state.device = c10::Device(c10::DeviceType::Meta);
  state.dense = state.dense_gradients = group(plan.rank, plan.ranks);
  state.expert = group(plan.rank % plan.expert_parallel, plan.expert_parallel);
  state.expert_replica = state.expert_replica_gradients = group(plan.rank / plan.expert_parallel, plan.ranks / plan.expert_parallel);
}

ProcessMesh::~ProcessMesh() = default;

int ProcessMesh::rank() const { return state_->world->rank(); }
int ProcessMesh::size() const { return state_->world->size(); }
int ProcessMesh::node_rank() const { return state_->node->rank(); }
int ProcessMesh::node_size() const { return state_->node->size(); }
int ProcessMesh::expert_parallel() const { return state_->expert_parallel; }
c10::Device ProcessMesh::device() const { return state_->device; }
Transport ProcessMesh::transport() const { return state_->transport; }
const HostCommunicator& ProcessMesh::control() const { return *state_->world; }
SideStream& ProcessMesh::side_stream() const { return *state_->side; }

const Communicator& ProcessMesh::group(Group group) const {
  switch (group) {
    case Group::kExpert: return *state_->expert;
    case Group::kExpertReplica: return *state_->expert_replica;
    default: return *state_->dense;
  }
}

const Communicator& ProcessMesh::gradient_group(Group group) const {
  switch (group) {
    case Group::kExpert: throw ShapeError("no gradient is summed over kExpert: its ranks hold different experts");
    case Group::kExpertReplica: return *state_->expert_replica_gradients;
    default: return *state_->dense_gradients;
  }
}

ProcessMesh one_rank_mesh(MeshConfig config, const MpiSession& session, int64_t experts) {
  config.expert_parallel = 1;
  config.transport = Transport::kAuto;
  return ProcessMesh(config, session.self(), session.self(), experts);
}

}  // namespace pimoe
