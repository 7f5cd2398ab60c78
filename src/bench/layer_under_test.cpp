#include "bench/layer_under_test.h"

#include "bench/steered_router.h"
#include "train/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <limits>
#include <optional>

namespace pimoe {

LayerUnderTest::LayerUnderTest(const Bench& bench)
    : mesh_(bench.mesh()),
      layer_(parameters_, "layers.0.moe", bench.config().model.moe, bench.config().model.width, bench.config().model.vocabulary,
             bench.dtype(), {bench.config().model.initial_deviation, bench.config().model.initial_deviation}, mesh_),
      buckets_(parameters_, mesh_, ParameterBuckets::kBucketBytes, /*trained=*/true),
      context_(mesh_.rank() * tokens_of(bench.config()), tokens_of(bench.config())) {
  Optimizer(buckets_, bench.config().optimizer, mesh_).initialize(static_cast<uint64_t>(bench.config().run.seed));
  const ModelConfig& model = bench.config().model;
  const auto random = [&] {
    return at::randn({tokens_of(bench.config()), model.width}, at::TensorOptions().device(mesh_.device())).to(bench.dtype());
  };
  tokens_ = random().requires_grad_(true);
  gradient_ = random();
  context_.training = true;
  context_.seed = static_cast<uint64_t>(bench.config().run.seed);
  context_.sequence_length = model.sequence_length;
  context_.token_ids = at::randint(model.vocabulary, {tokens_.size(0)}, at::TensorOptions().dtype(at::kLong).device(mesh_.device()));
}

void LayerUnderTest::run(Parts& parts) {
  const TimeMark begin = now();
  const MoEOutput output = forward();
  const TimeMark middle = now();
  output.tokens.backward(gradient_);
  parts.add("forward", begin, middle);
  parts.add("backward", middle, now());
  parts.add("route", begin, output.record.phases.front().begin);
  for (const PhaseMarks& marks : output.record.phases) {
    parts.add("dispatch", marks.begin, marks.dispatched);
    parts.add("experts", marks.dispatched, marks.computed);
    parts.add("combine", marks.computed, marks.combined);
  }
  forget_gradients();
}

LayerUnderTest::Memory LayerUnderTest::memory() {
  Memory memory;
  const c10::Device device = mesh_.device();
  forget_peak_memory(device);
  const int64_t before = memory_use(device).now_bytes;
  const MoEOutput output = forward();
  memory.kept_bytes = memory_use(device).now_bytes - before - static_cast<int64_t>(output.tokens.nbytes());
  output.tokens.backward(gradient_);
  synchronize(device);
  memory.peak_bytes = memory_use(device).peak_bytes - (device.is_cuda() ? before : 0);
  forget_gradients();
  return memory;
}

std::vector<double> LayerUnderTest::loads() const {
  const at::NoGradGuard no_gradients;
  const at::Tensor experts = layer_.router().route(tokens_, context_, {}).experts;
  return group_loads(experts, layer_.router().bias().size(0), mesh_.group(Group::kBatch));
}

void LayerUnderTest::steer_to(const std::vector<double>& loads) {
  steer(layer_.router(), tokens_.detach(), context_, loads, mesh_.group(Group::kBatch));
}

int64_t LayerUnderTest::tokens_lost_to_a_broken_expert() {
  const at::NoGradGuard no_gradients;
  const Parameter& last = parameters_.at("layers.0.moe.experts.down.weight");
  const at::Tensor whole = last.value.clone();
  if (mesh_.group(Group::kExpert).rank() == 0) last.value.select(0, 0).fill_(std::numeric_limits<double>::quiet_NaN());
  const int64_t lost = at::isfinite(forward().tokens).all(1).logical_not().sum().item<int64_t>();
  last.value.copy_(whole);
  return lost;
}

MoEOutput LayerUnderTest::forward() const {
  std::optional<RoutingMemo> memo;
  return layer_.forward(tokens_, context_, memo);
}

void LayerUnderTest::forget_gradients() {
  tokens_.mutable_grad().reset();
  for (const auto& parameter : parameters_) parameter->value.mutable_grad().reset();
}

}  // namespace pimoe
