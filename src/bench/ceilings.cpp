#include "bench/ceilings.h"

#include "base/file_io.h"
#include "base/text.h"
#include "bench/bench.h"
#include "train/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <algorithm>

namespace pimoe {
namespace {

constexpr int64_t kMebibyte = int64_t{1} << 20;
constexpr int64_t kRowNumbers = 256;  ///< float32 of a row in the exchange

/// [numbers] float32. Never zeros: hardware is faster with them.
at::Tensor random_numbers(int64_t numbers, c10::Device device) { return at::randn({numbers}, at::TensorOptions().device(device)); }

Ceiling gemm(at::ScalarType dtype, int64_t n, c10::Device device) {
  const auto prepare = [=]() -> Work {
    const auto random = [&] { return random_numbers(n * n, device).view({n, n}).to(dtype); };
    return [a = random(), b = random(), product = random()](Parts&) mutable { at::mm_out(product, a, b); };
  };
  const auto side = static_cast<double>(n);
  return {.name = gemm_name(dtype), .is_flops = true, .amount = 2 * side * side * side, .prepare = prepare};
}

/// @param passes  over the memory that the bytes are counted in: 2 where both ends are one memory, which reads and writes
Ceiling copy(const std::string& name, c10::Device from, c10::Device to, int64_t bytes, int passes) {
  const auto prepare = [=]() -> Work {
    at::Tensor source = random_numbers(bytes / 4, from);
    at::Tensor target = at::empty(source.sizes(), source.options().device(to));
    if (from.is_cpu() && to.is_cuda()) source = pinned(source, to);
    if (from.is_cuda() && to.is_cpu()) target = host_buffer(target.numel(), at::kFloat, from);
    return [source, target](Parts&) { target.copy_(source, /*non_blocking=*/true); };
  };
  return {.name = name, .amount = static_cast<double>(passes * bytes), .prepare = prepare};
}

Ceiling exchange(const Communicator& group, int64_t bytes, c10::Device device) {
  const int64_t rows = std::max<int64_t>(1, bytes / (4 * kRowNumbers) / group.size());  // for each rank
  const auto prepare = [=, &group]() -> Work {
    const std::vector<int64_t> counts(static_cast<size_t>(group.size()), rows);
    const at::Tensor sent = random_numbers(rows * group.size() * kRowNumbers, device).view({-1, kRowNumbers});
    return [=, &group](Parts&) { group.all_to_all(sent, counts, counts); };
  };
  return {.name = concat("all_to_all ", bytes / kMebibyte, " MiB"),
          .amount = static_cast<double>((group.size() - 1) * rows * kRowNumbers * 4),
          .group = group.name(),
          .prepare = prepare};
}

Ceiling sum(const Communicator& group, int64_t bytes, c10::Device device) {
  const auto prepare = [=, &group]() -> Work {
    // The largest instead of the sum: repeated sums would leave float32's range.
    return [&group, numbers = random_numbers(bytes / 4, device)](Parts&) mutable { group.all_reduce(numbers, ReduceOp::kMax); };
  };
  const double ring = 2.0 * static_cast<double>(group.size() - 1) / static_cast<double>(group.size());
  return {.name = concat("all_reduce ", bytes / kMebibyte, " MiB"),
          .amount = ring * static_cast<double>(bytes),
          .group = group.name(),
          .prepare = prepare};
}

Ceiling disk_write(Bench& bench) {
  const int64_t bytes = bench.sizes().disk_bytes;
  const auto prepare = [&bench, bytes]() -> Work {
    return [file = bench.scratch().own_file(), numbers = random_numbers(bytes / 4, at::kCPU)](Parts&) {
      write_durably(file, numbers.const_data_ptr(), numbers.nbytes());
    };
  };
  return {.name = "disk write", .amount = static_cast<double>(bytes), .clock = Clock::kHost, .is_light = true, .prepare = prepare};
}

Ceiling disk_read(Bench& bench) {
  const int64_t bytes = bench.sizes().disk_bytes;
  const auto prepare = [&bench, bytes]() -> Work {
    const std::filesystem::path file = bench.scratch().own_file();
    const at::Tensor numbers = random_numbers(bytes / 4, at::kCPU);
    write_durably(file, numbers.const_data_ptr(), numbers.nbytes());
    return [file](Parts&) {
      forget_cached(file);
      read_regular_bytes(file);
    };
  };
  return {.name = "disk read", .amount = static_cast<double>(bytes), .clock = Clock::kHost, .is_light = true, .prepare = prepare};
}

}  // namespace

std::string gemm_name(at::ScalarType dtype) { return concat("gemm ", dtype_name(dtype)); }

BenchSizes BenchSizes::of(c10::Device device) {
  if (device.is_cpu()) return {};
  return {.gemm = 8192,
          .copy_bytes = int64_t{1} << 30,
          .link_bytes = {kMebibyte, 16 * kMebibyte, 256 * kMebibyte},
          .disk_bytes = 512 * kMebibyte};
}

std::vector<Ceiling> ceilings_of(Bench& bench) {
  const c10::Device device = bench.mesh().device();
  const BenchSizes& sizes = bench.sizes();
  std::vector<Ceiling> all = {gemm(bench.dtype(), sizes.gemm, device)};
  if (bench.dtype() != at::kFloat) all.push_back(gemm(at::kFloat, sizes.gemm, device));
  all.push_back(copy(kCopyName, device, device, sizes.copy_bytes, 2));
  if (bench.on_gpu()) {
    all.push_back(copy("copy to the GPU", at::kCPU, device, sizes.copy_bytes, 1));
    all.push_back(copy("copy from the GPU", device, at::kCPU, sizes.copy_bytes, 1));
    all.push_back(copy("copy in host memory", at::kCPU, at::kCPU, sizes.copy_bytes, 2));
    all.back().clock = Clock::kHost;
  }
  const Communicator& experts = bench.mesh().group(Group::kExpert);
  const Communicator& everyone = bench.mesh().group(Group::kWorld);
  if (everyone.size() > 1) {
    for (const int64_t bytes : sizes.link_bytes) all.push_back(exchange(experts.size() > 1 ? experts : everyone, bytes, device));
    for (const int64_t bytes : sizes.link_bytes) all.push_back(sum(bench.mesh().gradient_group(Group::kDense), bytes, device));
  }
  all.push_back(disk_write(bench));
  all.push_back(disk_read(bench));
  return all;
}

}  // namespace pimoe
