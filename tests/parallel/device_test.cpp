#include "parallel/device.h"

#include "base/errors.h"
#include "ops/gradient_sink.h"
#include "parallel/host_device.h"
#include "support/temporary_folder.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

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

/// @returns the flags of the mapping that has this address, from /proc/self/smaps
std::string mapping_flags(const void* address) {
  std::ifstream lines("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      inside = begin <= reinterpret_cast<uintptr_t>(address) && reinterpret_cast<uintptr_t>(address) < end;
    } else if (inside && line.starts_with("VmFlags:")) {
      return line + " ";
    }
  }
  return "";
}

TEST(HostDevice, TensorsLieWhereHugePagesAreAskedForAndAddressesAloneAreTaken) {
  if (mallinfo2().uordblks == 0) GTEST_SKIP() << "another allocator has malloc's place";
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) GTEST_SKIP() << "this kernel has no huge pages to ask for";
  use_device(kHost);
  const MemoryUse before = memory_use(kHost);
  const at::Tensor large = at::ones({int64_t{16} << 20});
  EXPECT_NE(mapping_flags(large.const_data_ptr()).find(" hg "), std::string::npos) << mapping_flags(large.const_data_ptr());
  EXPECT_LT(memory_use(kHost).peak_bytes - before.peak_bytes, int64_t{128} << 20);
}

TEST(HostDevice, ATensorLiesWhereOneOfItsSizeHasBeenFreed) {
  if (mallinfo2().uordblks == 0) GTEST_SKIP() << "another allocator has malloc's place";
  use_device(kHost);
  for (const int64_t numbers : {int64_t{1'000'003}, int64_t{4'000'000}}) {
    std::vector<at::Tensor> all;
    for (int each = 0; each < 5; ++each) all.push_back(at::ones({numbers}));
    const void* const middle = all[2].const_data_ptr();  // between others, so that nothing joins it when it is free
    all[2].reset();
    all[2] = at::ones({numbers});
    EXPECT_EQ(all[2].const_data_ptr(), middle) << numbers;
  }
}

TEST(HostDevice, TensorsBeginOnACacheLineAndMayHaveNoNumbers) {
  use_device(kHost);
  std::vector<at::Tensor> all;
  for (int64_t numbers = 0; numbers < 100; ++numbers) {
    all.push_back(at::full({numbers}, 3.0F));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(all.back().const_data_ptr()) % 64, 0U) << numbers;
  }
  for (int64_t numbers = 0; numbers < 100; numbers += 2) all[static_cast<size_t>(numbers)].resize_({2 * numbers}).fill_(5.0F);
  for (int64_t numbers = 1; numbers < 100; numbers += 2) {
    EXPECT_EQ(all[static_cast<size_t>(numbers)].sum().item<float>(), 3.0F * static_cast<float>(numbers)) << numbers;
  }
}

TEST(HostDevice, MemoryThatIsNotThereIsOutOfMemoryAndSaysHowMuch) {
  use_device(kHost);
  try {
    const at::Tensor none = at::empty({int64_t{1} << 60}, at::kByte);
    FAIL();
  } catch (const c10::OutOfMemoryError& error) {
    EXPECT_NE(std::string(error.what_without_backtrace()).find("1152921504606846976 bytes"), std::string::npos)
        << error.what_without_backtrace();
  }
}

TEST(HostDevice, ANarrowTermIsAddedWithoutACopyOfItInTheSumsDtype) {
  use_device(kHost);
  const at::Tensor sum = at::zeros({int64_t{32} << 20});  // more than what other tests have left in the heap has room for
  const at::Tensor term = at::full(sum.sizes(), 2.0F, at::kBFloat16);
  forget_peak_memory(kHost);
  const int64_t before = memory_use(kHost).peak_bytes;
  add_to_sum(sum, term);
  EXPECT_LT(memory_use(kHost).peak_bytes - before, int64_t{64} << 20);
  EXPECT_EQ(sum.sum().item<float>(), 2.0F * static_cast<float>(sum.numel()));
}

/// A control group's folder. @param names, values  of its files
void make_group(const std::filesystem::path& folder, const std::vector<std::pair<std::string, std::string>>& files) {
  std::filesystem::create_directories(folder);
  for (const auto& [name, content] : files) std::ofstream(folder / name) << content << "\n";
}

int64_t free_in(const std::string& membership, const std::filesystem::path& root) {
  std::istringstream lines(membership);
  return free_in_control_groups(lines, root);
}

TEST(HostDevice, MemoryOfAJobIsThatOfItsControlGroupAndOfThoseAbove) {
  const TemporaryFolder folder;
  const std::filesystem::path root = folder.path();
  constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(free_in("0::/\n", root), kNoLimit);
  EXPECT_EQ(free_in("", root), kNoLimit);
  // As Slurm lays them out: the job is limited, its step and task are not.
  make_group(root / "slurm/job_7",
             {{"memory.max", "1000"}, {"memory.current", "700"}, {"memory.stat", "anon 600\ninactive_file 100\nfile 100"}});
  make_group(root / "slurm/job_7/step_0", {{"memory.max", "max"}, {"memory.current", "10"}});
  EXPECT_EQ(free_in("0::/slurm/job_7/step_0/task_1\n", root), 400);
  EXPECT_EQ(free_in("0::/slurm/job_8\n", root), kNoLimit);
  // Version 1, and a container that is its own top.
  make_group(
      root / "memory/job",
      {{"memory.limit_in_bytes", "5000"}, {"memory.usage_in_bytes", "1000"}, {"memory.stat", "inactive_file 1\ntotal_inactive_file 50"}});
  EXPECT_EQ(free_in("5:cpu:/job\n4:memory:/job/inner\n0::/\n", root), 4050);
  EXPECT_EQ(free_in("3:cpuset:/job\n", root), kNoLimit);
  make_group(root, {{"memory.max", "300"}, {"memory.current", "400"}});
  EXPECT_EQ(free_in("0::/../elsewhere\n", root), 0);
}

TEST(HostDevice, FreeAddressesAreWhatTheLimitLeaves) {
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  if (before.rlim_cur == RLIM_INFINITY) {
    EXPECT_EQ(free_addresses(), std::numeric_limits<int64_t>::max());
  }
  int64_t mapped = 0;
  std::ifstream("/proc/self/statm") >> mapped;  // pages
  constexpr int64_t kRoom = int64_t{256} << 20;
  struct rlimit less = before;
  less.rlim_cur = static_cast<rlim_t>(mapped * ::sysconf(_SC_PAGESIZE) + kRoom);
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &less), 0);
  const int64_t left = free_addresses();
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_GT(left, 0);
  EXPECT_LE(left, kRoom);
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
