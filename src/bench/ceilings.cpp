#include "bench/ceilings.h"

#include "base/file_io.h"
#include "base/text.h"
#include "bench/bench.h"
#include "data/data_stream.h"
#include "ops/causal_attention.h"
#include "ops/cross_entropy.h"
#include "ops/grouped_product.h"
#include "train/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <algorithm>

namespace pimoe {
namespace {

constexpr int64_t kMebibyte = int64_t{1} << 20;
constexpr int64_t kRowNumbers = 256;  ///< float32 of a row in the exchange

/// [numbers] float32. Never zeros: hardware is faster with them.
at::Tensor random_numbers(int64_t numbers, c10::Device device) { return at::randn({numbers}, at::TensorOptions().device(device)); }

/// @returns an n x n x n product
Work product(at::ScalarType dtype, int64_t n, c10::Device device) {
  const auto random = [&] { return random_numbers(n * n, device).view({n, n}).to(dtype); };
  return [a = random(), b = random(), product = random()](Parts&) mutable { at::mm_out(product, a, b); };
}

/// @returns n of the largest product that the slowest rank's CPU makes in about the time that it may take: most have no instructions for float16, and
///          are a hundred times slower at it than at float32. Of a GPU what is configured. Collective.
int64_t side_of_product(at::ScalarType dtype, const Bench& bench) {
  constexpr int64_t kLeast = 128;
  constexpr Effort kTrial = {.seconds = 0.0, .warm_ups = 1, .least = 3, .most = 3};
  const BenchSizes& sizes = bench.sizes();
  if (bench.on_gpu()) return sizes.gemm;
  int64_t side = std::min(kLeast, sizes.gemm);
  while (2 * side <= sizes.gemm) {
    const Measurement trial = measure(bench.mesh(), Clock::kDevice, kTrial, product(dtype, side, bench.mesh().device()));
    if (8 * trial.seconds.low > sizes.gemm_seconds) break;
    side *= 2;
  }
  return side;
}

Ceiling gemm(at::ScalarType dtype, const Bench& bench) {
  const auto settle = [dtype, &bench](Ceiling& self) {
    const int64_t n = side_of_product(dtype, bench);
    if (n < bench.sizes().gemm) bench.log().info(concat(self.name, ": with n = ", n, ", because a larger product takes long here"));
    const auto side = static_cast<double>(n);
    self.amount = 2 * side * side * side;
    self.prepare = [=, &bench] { return product(dtype, n, bench.mesh().device()); };
  };
  return {.name = gemm_name(dtype), .is_flops = true, .prepare = {}, .settle = settle};
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

at::Tensor random_matrix(int64_t rows, int64_t columns, const Bench& bench) {
  return random_numbers(rows * columns, bench.mesh().device()).view({rows, columns}).to(bench.dtype());
}

/// Of a rank's micro-batch.
int64_t tokens_of(const Bench& bench) {
  const TrainConfig& config = bench.config();
  const StepPlan plan(config.train.global_batch, bench.mesh().size(), config.train.micro_batch);
  return std::max<int64_t>(1, plan.share(0, 0).second) * config.model.sequence_length;
}

/// Attention's projection of queries, keys and values, forward and backward.
Ceiling projections(const Bench& bench) {
  const ModelConfig& model = bench.config().model;
  const int64_t columns = model.heads * model.key_width() + model.key_heads() * (model.key_width() + model.value_width());
  const auto prepare = [=, &bench]() -> Work {
    const at::Tensor tokens = random_matrix(tokens_of(bench), model.width, bench).requires_grad_();
    const at::Tensor weight = random_matrix(columns, model.width, bench).requires_grad_();
    return [=](Parts&) {
      const at::Tensor heads = linear_layer(tokens, weight);
      heads.backward(heads.detach());
      for (const at::Tensor& tensor : {tokens, weight}) tensor.mutable_grad().reset();
    };
  };
  const auto amount = 6.0 * static_cast<double>(tokens_of(bench) * model.width * columns);
  return {.name = "projections", .is_flops = true, .amount = amount, .prepare = prepare};
}

/// Forward and backward; the masked half of causal attention does not count.
Ceiling attention(const Bench& bench) {
  const ModelConfig& model = bench.config().model;
  const int64_t sequences = tokens_of(bench) / model.sequence_length;
  const auto prepare = [model, sequences, &bench]() -> Work {
    const int64_t all = model.heads + 2 * model.key_heads();
    const int64_t width = std::max(model.key_width(), model.value_width());
    const at::Tensor together = random_matrix(tokens_of(bench), all * width, bench).view({sequences, model.sequence_length, all, width});
    const AttentionHeads heads = AttentionHeads::split(together, model.heads, model.key_heads());
    for (const at::Tensor& part : {heads.queries, heads.keys, heads.values}) part.requires_grad_();
    return [heads](Parts&) {
      const at::Tensor mixed = causal_attention(heads);
      mixed.backward(mixed.detach());
      for (const at::Tensor& part : {heads.queries, heads.keys, heads.values}) part.mutable_grad().reset();
    };
  };
  const auto amount =
      7.0 * static_cast<double>(tokens_of(bench) * model.sequence_length * model.heads * std::max(model.key_width(), model.value_width()));
  return {.name = "attention", .is_flops = true, .amount = amount, .prepare = prepare};
}

/// A rank's experts of the first group, forward and backward, with the same number of rows each.
Ceiling expert_products(const Bench& bench) {
  const ModelConfig& model = bench.config().model;
  const ExpertGroupConfig group = model.moe.expert_groups()[0];
  const int64_t local = group.count / bench.mesh().expert_parallel();
  const int64_t each = std::max<int64_t>(1, tokens_of(bench) * bench.mesh().expert_parallel() * model.moe.choices / model.moe.experts);
  const auto prepare = [=, &bench]() -> Work {
    const at::Tensor rows = random_matrix(local * each, model.width, bench).requires_grad_();
    const at::Tensor gate_up =
        random_matrix(local * 2 * group.width, model.width, bench).view({local, 2 * group.width, model.width}).requires_grad_();
    const at::Tensor down = random_matrix(local * model.width, group.width, bench).view({local, model.width, group.width}).requires_grad_();
    const at::Tensor ends = (at::arange(local, at::kLong) + 1).mul(each).to(bench.mesh().device(), at::kInt);
    return [=](Parts&) {
      const at::Tensor results = grouped_swiglu_mlp(rows, gate_up, down, ends);
      results.backward(results.detach());
      for (const at::Tensor& tensor : {rows, gate_up, down}) tensor.mutable_grad().reset();
    };
  };
  const auto amount = 18.0 * static_cast<double>(local * each * model.width * group.width);
  return {.name = "experts", .is_flops = true, .amount = amount, .prepare = prepare};
}

/// The head and its cross-entropy, forward and backward.
Ceiling head(const Bench& bench) {
  const ModelConfig& model = bench.config().model;
  const auto prepare = [=, &bench]() -> Work {
    const at::Tensor hidden = random_matrix(tokens_of(bench), model.width, bench).requires_grad_();
    const at::Tensor weight = random_matrix(model.vocabulary, model.width, bench).requires_grad_();
    const at::Tensor targets =
        at::randint(model.vocabulary, {tokens_of(bench)}, at::TensorOptions().dtype(at::kLong).device(hidden.device()));
    return [=](Parts&) {
      linear_cross_entropy(hidden, weight, targets).backward();
      for (const at::Tensor& tensor : {hidden, weight}) tensor.mutable_grad().reset();
    };
  };
  const auto amount = 6.0 * static_cast<double>(tokens_of(bench) * model.width * model.vocabulary);
  return {.name = "head", .is_flops = true, .amount = amount, .prepare = prepare};
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

/// One-sided stores into the next rank's memory.
Ceiling direct_stores(const Communicator& group, int64_t bytes, c10::Device device) {
  const auto prepare = [=, &group]() -> Work {
    return [&group, device, rows = random_numbers(bytes / 4, device).view({-1, kRowNumbers})](Parts&) {
      group.direct_exchange(device)->fill_next(rows);
    };
  };
  return {.name = concat("direct stores ", bytes / kMebibyte, " MiB"),
          .amount = static_cast<double>(bytes),
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
  std::vector<Ceiling> all = {gemm(bench.dtype(), bench)};
  if (bench.dtype() != at::kFloat) all.push_back(gemm(at::kFloat, bench));
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
    if (experts.direct_exchange(device) != nullptr) {
      for (const int64_t bytes : sizes.link_bytes) all.push_back(direct_stores(experts, bytes, device));
    }
    for (const int64_t bytes : sizes.link_bytes) all.push_back(sum(bench.mesh().gradient_group(Group::kDense), bytes, device));
  }
  all.push_back(projections(bench));
  all.push_back(attention(bench));
  if (bench.config().model.moe_layers() > 0) all.push_back(expert_products(bench));
  all.push_back(head(bench));
  all.push_back(disk_write(bench));
  all.push_back(disk_read(bench));
  return all;
}

}  // namespace pimoe
