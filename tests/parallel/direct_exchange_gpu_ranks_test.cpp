#include "parallel/device.h"
#include "parallel/direct_exchange_check.h"
#include "support/ranks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>

namespace pimoe {
namespace {

std::unique_ptr<ProcessMesh> gpu_mesh() {
  MeshConfig config;
  config.device = DeviceChoice::kCuda;
  return world_mesh(config, 4);
}

// A kernel that went ahead of another rank's would read, or overwrite, what is not its own: thousands of calls without a pause between them.
TEST(DirectExchangeOnGpus, EqualsTheLoopThousandsOfTimes) {
  const auto mesh = gpu_mesh();
  const Communicator& group = mesh->group(Group::kWorld);
  DirectExchange* direct = group.direct_exchange(mesh->device());
  if (mesh->transport() == Transport::kMpi) {
    EXPECT_EQ(direct, nullptr);
    return;
  }
  ASSERT_NE(direct, nullptr) << "GPUs that do not reach each other";
  std::mt19937 random(17);
  for (int round = 0; round < 100; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
      expect_direct_exchange_equals_loop(group, *direct, random, dtype, mesh->device());
    }
  }
}

/// 10,000 random steps there and back, checked on the device without waiting for it: what each rank made of a row is the row itself, so that it
/// comes back as often as it went.
TEST(DirectExchangeOnGpus, HoldsForTenThousandStepsOfEverySkew) {
  const auto mesh = gpu_mesh();
  const Communicator& group = mesh->group(Group::kWorld);
  DirectExchange* direct = group.direct_exchange(mesh->device());
  if (direct == nullptr) return;  // one GPU for all
  const int64_t ranks = group.size(), most = 512, choices = 4, width = 64;
  const auto options = at::TensorOptions().device(mesh->device());
  at::Tensor wrong = at::zeros({}, options.dtype(at::kLong));
  std::mt19937 random(23);  // of the same seed on every rank
  for (int step = 0; step < 10'000; ++step) {
    const double skew = static_cast<double>(random() % 5) / 4;
    const int64_t count = group.rank() == 0 ? most - static_cast<int64_t>(random() % 3) * 256 : static_cast<int64_t>(random() % 513);
    at::Tensor own =
        (at::rand({most, choices}, options) * (static_cast<double>(ranks) * (1 - skew))).to(at::kInt);  // at the end all to rank 0
    own.slice(0, count).fill_(-1);
    at::Tensor wanted = at::empty({ranks * most, choices}, own.options());
    group.all_gather(wanted, own);
    const at::Tensor rows = at::randint(-8, 8, {count, width}, options.dtype(at::kBFloat16));
    const at::Tensor arrived = direct->spread(rows, wanted.view({ranks, most, choices}));
    const at::Tensor back = direct->sum_back(arrived, wanted.view({ranks, most, choices}), count);
    at::Tensor times = at::zeros({count, 1}, options.dtype(at::kBFloat16));
    for (int64_t rank = 0; rank < ranks; ++rank) times += (own.slice(0, 0, count) == rank).any(1, true);
    wrong += (back != rows * times).sum();
  }
  EXPECT_EQ(wrong.item<int64_t>(), 0);
}

}  // namespace
}  // namespace pimoe
