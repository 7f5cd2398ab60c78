#include "parallel/device.h"

#include "base/errors.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

const c10::Device kGpu(c10::DeviceType::CUDA, 0);

at::TensorOptions on_gpu() { return at::TensorOptions().device(kGpu).dtype(at::kFloat); }

TEST(Gpu, IsThereAndSaysWhatItIs) {
  ASSERT_GT(gpu_count(), 0);
  use_device(kGpu);
  EXPECT_FALSE(device_name(kGpu).empty());
  EXPECT_EQ(device_identity(kGpu).size(), 16u);
  EXPECT_EQ(device_identity(kGpu), device_identity(kGpu));
  EXPECT_TRUE(has_fast_bfloat16(kGpu));
  EXPECT_GT(peak_flops(kGpu), 0) << device_name(kGpu) << " is not in the table";
}

TEST(Gpu, MemoryUseFollowsLiveTensorsAndKeepsThePeak) {
  use_device(kGpu);
  constexpr int64_t kBytes = int64_t{64} << 20;
  const int64_t before = memory_use(kGpu).now_bytes;
  at::Tensor large = at::empty({kBytes / 4}, on_gpu());
  EXPECT_EQ(memory_use(kGpu).now_bytes - before, kBytes);
  large.reset();
  EXPECT_EQ(memory_use(kGpu).now_bytes, before);
  EXPECT_GE(memory_use(kGpu).peak_bytes, before + kBytes);
}

// Without the waits in `run` and `join` the long chains before and on the side would be overtaken.
TEST(SideStream, SeesTheCallersWorkAndTheCallerSeesItsOwnAfterJoin) {
  use_device(kGpu);
  SideStream side(kGpu);
  for (int round = 0; round < 20; ++round) {
    at::Tensor values = at::zeros({1 << 24}, on_gpu());
    for (int step = 0; step < 20; ++step) values.add_(1);
    side.run({values}, [&] {
      for (int step = 0; step < 20; ++step) values.add_(1);
    });
    side.join();
    ASSERT_TRUE(values.eq(40).all().item<bool>()) << "round " << round;
  }
}

// The caller drops its tensor at once and allocates again: the memory must not be handed out while the side stream still reads it.
TEST(SideStream, KeepsAliveWhatItWasTold) {
  use_device(kGpu);
  SideStream side(kGpu);
  at::Tensor sum = at::zeros({1 << 22}, on_gpu());
  for (int round = 0; round < 20; ++round) {
    at::Tensor values = at::ones({1 << 22}, on_gpu());
    side.run({values, sum}, [&] {
      for (int step = 0; step < 10; ++step) sum.add_(values);
    });
    values.reset();
    at::Tensor overwrites = at::ones({1 << 22}, on_gpu()) * 1000;
  }
  side.join();
  EXPECT_TRUE(sum.eq(200).all().item<bool>());
}

TEST(Pinned, IsPageLockedWithTheSameValues) {
  use_device(kGpu);
  const at::Tensor host = at::rand({5, 3});
  const at::Tensor locked = pinned(host, kGpu);
  EXPECT_TRUE(locked.is_pinned());
  EXPECT_TRUE(locked.equal(host));
  EXPECT_EQ(pinned(locked, kGpu).data_ptr(), locked.data_ptr());
}

}  // namespace
}  // namespace pimoe
