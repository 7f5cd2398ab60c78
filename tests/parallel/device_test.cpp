#include "parallel/device.h"

#include "base/errors.h"

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace pimoe {
namespace {

const c10::Device kHost(c10::DeviceType::CPU);

TEST(HostDevice, HasANameAndNoKnownPeak) {
  EXPECT_FALSE(device_name(kHost).empty());
  EXPECT_EQ(device_identity(kHost), "cpu");
  EXPECT_EQ(peak_flops(kHost), 0);
  use_device(kHost);
  synchronize(kHost);
}

TEST(PeakFlops, IsThatOfTheLongestKnownName) {
  EXPECT_EQ(peak_flops_of("NVIDIA H200"), 989.5e12);
  EXPECT_EQ(peak_flops_of("NVIDIA GH200 480GB"), 989.5e12);
  EXPECT_EQ(peak_flops_of("NVIDIA H100 NVL"), 835e12);
  EXPECT_EQ(peak_flops_of("A100-SXM4-40GB"), 312e12);
  EXPECT_EQ(peak_flops_of("NVIDIA L40S"), 362e12);
  EXPECT_EQ(peak_flops_of("AMD EPYC"), 0);
}

TEST(HostDevice, MemoryUseFollowsAllocationAndRelease) {
  constexpr int64_t kBytes = int64_t{64} << 20;
  const MemoryUse before = memory_use(kHost);
  at::Tensor large = at::ones({kBytes / 4});
  const MemoryUse during = memory_use(kHost);
  EXPECT_GE(during.now_bytes - before.now_bytes, kBytes);
  EXPECT_LT(during.now_bytes - before.now_bytes, kBytes + (8 << 20));
  EXPECT_GE(during.peak_bytes, kBytes);
  large.reset();
  EXPECT_LT(memory_use(kHost).now_bytes - before.now_bytes, 8 << 20);
}

TEST(HostDevice, ForgettingThePeakRaisesItNever) {
  const c10::Device cpu(c10::DeviceType::CPU);
  const int64_t before = memory_use(cpu).peak_bytes;
  forget_peak_memory(cpu);
  EXPECT_LE(memory_use(cpu).peak_bytes, before);
  EXPECT_GT(memory_use(cpu).peak_bytes, 0);
}

TEST(HostDevice, Bfloat16IsNotFastWhereTheUserHoldsTheCpuToAvx2) {
  const bool fast = has_fast_bfloat16(kHost);
  setenv("ONEDNN_MAX_CPU_ISA", "AVX2", 1);
  EXPECT_FALSE(has_fast_bfloat16(kHost));
  setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", 1);
  EXPECT_EQ(has_fast_bfloat16(kHost), fast);
  unsetenv("ONEDNN_MAX_CPU_ISA");
  setenv("ATEN_CPU_CAPABILITY", "avx2", 1);
  EXPECT_FALSE(has_fast_bfloat16(kHost));
  unsetenv("ATEN_CPU_CAPABILITY");
  EXPECT_EQ(has_fast_bfloat16(kHost), fast);
}

TEST(HostDevice, SideStreamCallsTheWorkBeforeItReturns) {
  SideStream side(kHost);
  int calls = 0;
  side.run({}, [&] { ++calls; });
  EXPECT_EQ(calls, 1);
  side.join();
}

TEST(HostDevice, PinnedWithoutAGpuIsTheTensorItself) {
  const at::Tensor tensor = at::ones({3});
  EXPECT_EQ(pinned(tensor, kHost).data_ptr(), tensor.data_ptr());
}

TEST(Device, AGpuThatIsNotThereIsRefused) {
  EXPECT_THROW(use_device(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(gpu_count()))), ConfigError);
}

}  // namespace
}  // namespace pimoe
