/// Device tensors between ranks, two or more, over what `mesh.transport=auto` picks: NCCL where each has a GPU of its own, MPI through the host
/// where they share one. The properties are the same.

#include "parallel/gradient_reducer.h"

#include "base/errors.h"
#include "parallel/device.h"
#include "support/ranks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace pimoe {
namespace {

MeshConfig gpu_mesh(Transport transport, int64_t expert_parallel = 0) {
  MeshConfig config;
  config.device = DeviceChoice::kCuda;
  config.transport = transport;
  config.expert_parallel = expert_parallel;
  return config;
}

bool share_a_gpu() { return gpu_count() < test_session().node()->size(); }

TEST(DeviceMesh, TakesNcclWhereEachRankHasAGpuAndRefusesItWhereTheyShareOne) {
  const auto mesh = world_mesh(gpu_mesh(Transport::kAuto), 4);
  EXPECT_TRUE(mesh->device().is_cuda());
  EXPECT_EQ(mesh->device().index(), mesh->node_rank() % gpu_count());
  EXPECT_EQ(mesh->transport(), share_a_gpu() ? Transport::kMpi : Transport::kNccl);
  if (!share_a_gpu()) return;
  try {
    world_mesh(gpu_mesh(Transport::kNccl), 4);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("but 1 GPUs: start at most 1 ranks a node, or mesh.transport=mpi"), std::string::npos)
        << error.what();
  }
}

/// The same collectives on device tensors over `mesh` and on host tensors over MPI.
void check_collectives(const ProcessMesh& mesh) {
  const Communicator& group = mesh.group(Group::kWorld);
  const auto host = test_session().world();
  const int64_t ranks = group.size();
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kLong, at::kInt}) {
    at::Tensor expected = at::randint(-100, 100, {ranks * 1000}, dtype);
    at::Tensor tensor = expected.to(mesh.device());
    at::Tensor most = tensor.clone();
    at::Tensor part = tensor.clone().narrow(0, group.rank() * 1000, 1000).clone();
    group.reduce_scatter(part, tensor);
    host->all_reduce(expected);
    group.all_reduce(tensor);
    EXPECT_TRUE(tensor.cpu().equal(expected)) << dtype;
    EXPECT_TRUE(part.cpu().equal(expected.narrow(0, group.rank() * 1000, 1000))) << dtype;
    at::Tensor expected_most = most.cpu();
    host->all_reduce(expected_most, ReduceOp::kMax);
    group.all_reduce(most, ReduceOp::kMax);
    EXPECT_TRUE(most.cpu().equal(expected_most)) << dtype;
  }
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kByte, at::kBool, at::kLong}) {
    const at::Tensor own = at::randint(0, 2, {7, 3}, dtype);
    at::Tensor expected = at::zeros({ranks * 7, 3}, dtype);
    host->all_gather(expected, own);
    at::Tensor gathered = at::zeros({ranks * 7, 3}, at::TensorOptions().device(mesh.device()).dtype(dtype));
    group.all_gather(gathered, own.to(mesh.device()));
    EXPECT_TRUE(gathered.cpu().equal(expected)) << dtype;
    at::Tensor in_place = at::zeros_like(gathered);
    at::Tensor shard = in_place.narrow(0, group.rank() * 7, 7);
    shard.copy_(own);
    group.all_gather(in_place, shard);
    EXPECT_TRUE(in_place.cpu().equal(expected)) << dtype;
    at::Tensor sent = own.to(mesh.device());
    group.broadcast(sent, 1);
    EXPECT_TRUE(sent.cpu().equal(expected.narrow(0, 7, 7))) << dtype;
  }
  group.barrier();
}

void check_all_to_all(const ProcessMesh& mesh) {
  const Communicator& group = mesh.group(Group::kWorld);
  const auto host = test_session().world();
  std::mt19937 random(5);  // the same on every rank
  const auto self = static_cast<size_t>(group.rank());
  const auto ranks = static_cast<size_t>(group.size());
  for (int round = 0; round < 6; ++round) {
    std::vector<std::vector<int64_t>> counts(ranks, std::vector<int64_t>(ranks));  // [from][to]; in the last round nothing at all
    for (auto& of_rank : counts) {
      for (int64_t& count : of_rank) count = round == 5 || random() % 3 == 0 ? 0 : static_cast<int64_t>(random() % 6);
    }
    std::vector<int64_t> receive;
    for (const auto& of_rank : counts) receive.push_back(of_rank[self]);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kLong}) {
      const at::Tensor rows = at::randint(0, 100, {std::accumulate(counts[self].begin(), counts[self].end(), int64_t{0}), 6}, dtype);
      const at::Tensor received = group.all_to_all(rows.to(mesh.device()), counts[self], receive);
      EXPECT_EQ(received.device(), mesh.device());
      EXPECT_TRUE(received.cpu().equal(host->all_to_all(rows, counts[self], receive))) << dtype;
    }
  }
}

TEST(DeviceGroups, OfAutoGiveWhatHostTensorsGive) {
  const auto mesh = world_mesh(gpu_mesh(Transport::kAuto), 4);
  check_collectives(*mesh);
  check_all_to_all(*mesh);
}

TEST(DeviceGroups, StagedThroughTheHostGiveTheSame) {
  const auto mesh = world_mesh(gpu_mesh(Transport::kMpi), 4);
  check_collectives(*mesh);
  check_all_to_all(*mesh);
}

// Gradient sums on the side stream beside an exchange on the main one, for many steps: what crossed would hang or give other numbers.
TEST(GradientReducer, OverlapsWithExchangesOfTheBackwardPass) {
  for (const int64_t expert_parallel : {1, 2}) {
    const auto mesh = world_mesh(gpu_mesh(Transport::kAuto, expert_parallel), 4);
    ParameterList list;
    for (int layer = 0; layer < 6; ++layer) {
      Parameter parameter;
      parameter.name = "layer" + std::to_string(layer);
      parameter.box = Box::whole({1 << 18});
      parameter.copies = layer % 2 == 0 ? Group::kDense : Group::kExpertReplica;
      list.declare(std::move(parameter));
    }
    ParameterBuckets buckets(list, *mesh, 1 << 20, true);
    GradientReducer reducer(buckets, *mesh);
    const Communicator& batch = mesh->group(Group::kBatch);
    for (int step = 0; step < 50; ++step) {
      reducer.begin_step();
      reducer.begin_backward(true);
      at::Tensor loss = at::zeros({}, at::TensorOptions().device(mesh->device()).dtype(at::kFloat));
      for (int layer = 0; layer < 6; ++layer) {
        const at::Tensor product = list[static_cast<size_t>(layer)].value * static_cast<double>((mesh->rank() + 1) * (layer + 1) + step);
        product.register_hook([&batch](const at::Tensor& gradient) {
          at::Tensor rows = gradient.contiguous().clone();
          batch.all_reduce(rows);
        });
        loss = loss + product.sum();
      }
      loss.backward();
      reducer.finish();
      for (size_t layer = 0; layer < 6; ++layer) {
        const Bucket& bucket = buckets.buckets()[layer];
        const int stride = layer % 2 == 0 ? 1 : static_cast<int>(expert_parallel);  // between the ranks that have copies of it
        double expected = 0.0;
        for (int rank = mesh->rank() % stride; rank < mesh->size(); rank += stride) {
          expected += (rank + 1.0) * (static_cast<double>(layer) + 1) + step;
        }
        ASSERT_TRUE(bucket.gradient_slice().eq(expected).all().item<bool>()) << "step " << step << ", layer " << layer;
      }
    }
    buckets.gather_weights(*mesh);
  }
}

}  // namespace
}  // namespace pimoe
