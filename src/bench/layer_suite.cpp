#include "bench/suites.h"

#include "base/text.h"
#include "bench/report.h"
#include "bench/steered_router.h"
#include "model/flops.h"
#include "moe/load_statistics.h"
#include "moe/moe_layer.h"
#include "train/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <optional>

namespace pimoe {
namespace {

/// A layer of its own with a rank's micro-batch of random tokens. Gradients are made, and not added up.
class LayerUnderTest {
 public:
  explicit LayerUnderTest(const Bench& bench)
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

  static int64_t tokens_of(const TrainConfig& config) { return config.train.micro_batch * config.model.sequence_length; }

  void run(Parts& parts) {
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

  struct Memory {
    int64_t kept_bytes = 0;  ///< from forward to backward; without its input and its result, which are others' too
    int64_t peak_bytes = 0;  ///< on top of weights and input (GPU); of the process (CPU)
  };
  Memory memory() {
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

  std::vector<double> loads() const {
    const at::NoGradGuard no_gradients;
    const at::Tensor experts = layer_.router().route(tokens_, context_, {}).experts;
    return group_loads(experts, layer_.router().bias().size(0), mesh_.group(Group::kBatch));
  }
  void steer_to(const std::vector<double>& loads) { steer(layer_.router(), tokens_.detach(), context_, loads, mesh_.group(Group::kBatch)); }
  int64_t all_tokens() const { return tokens_.size(0) * mesh_.group(Group::kBatch).size(); }

 private:
  TimeMark now() const { return TimeMark::now(mesh_.device()); }

  MoEOutput forward() const {
    std::optional<RoutingMemo> memo;
    return layer_.forward(tokens_, context_, memo);
  }

  void forget_gradients() {
    tokens_.mutable_grad().reset();
    for (const auto& parameter : parameters_) parameter->value.mutable_grad().reset();
  }

  const ProcessMesh& mesh_;
  ParameterList parameters_;
  MoELayer layer_;
  ParameterBuckets buckets_;
  BatchContext context_;
  at::Tensor tokens_;    ///< [T, D]
  at::Tensor gradient_;  ///< of the layer's result
};

void measure_routing(Bench& bench, LayerUnderTest& layer, const std::string& routing) {
  const ModelConfig& model = bench.config().model;
  const int64_t tokens = LayerUnderTest::tokens_of(bench.config());
  const Measurement measured = bench.measure(Clock::kDevice, [&](Parts& parts) { layer.run(parts); });
  const LayerUnderTest::Memory memory = layer.memory();
  const int64_t kept = bench.most(memory.kept_bytes);
  const int64_t peak = bench.most(memory.peak_bytes);
  const double rate = static_cast<double>(tokens) * expert_flops(model) / measured.seconds.median;
  const double violation = maxvio(layer.loads());

  BenchRow row{.suite = "layer", .name = routing, .seconds = measured.seconds};
  row.values["tokens_of_a_rank"] = tokens;
  row.values["tflops"] = rate / 1e12;
  row.values["share_of_gemm"] = rate / bench.gemm_ceiling();
  for (const TimedPart& part : measured.parts) put_seconds(row.values, part.seconds, part.name + "_");
  row.values["kept_bytes"] = kept;
  row.values["peak_bytes"] = peak;
  row.values["maxvio"] = violation;
  row.summary = concat(si_text(rate, "FLOP/s"), ", ", percent_text(rate / bench.gemm_ceiling()), " of gemm");
  row.details = {parts_text({measured.parts.begin(), measured.parts.begin() + 2}),
                 concat("in forward: ", parts_text({measured.parts.begin() + 2, measured.parts.end()})),
                 concat("kept for backward ", bytes_text(kept), ", at most ", bytes_text(peak), "; MaxVio ", fixed(violation, 2))};
  bench.add(std::move(row));
}

}  // namespace

void run_layer_suite(Bench& bench) {
  const MoeConfig& moe = bench.config().model.moe;
  bench.gemm_ceiling();
  LayerUnderTest layer(bench);
  bench.log().info("measuring the layer, routing as it begins");
  measure_routing(bench, layer, "natural");
  if (!moe.steerable()) {
    bench.log().info(concat("router.kind ", moe.router_kind(), " is steered by nothing: its own routing alone is measured"));
    return;
  }
  const auto slots = static_cast<double>(layer.all_tokens() * moe.choices);
  bench.log().info("measuring the layer, balanced");
  layer.steer_to(std::vector<double>(static_cast<size_t>(moe.experts), slots / static_cast<double>(moe.experts)));
  measure_routing(bench, layer, "balanced");
  bench.log().info("measuring the layer, Zipf's law");
  layer.steer_to(zipf_loads(layer.all_tokens(), moe.experts, moe.choices));
  measure_routing(bench, layer, "zipf");
}

}  // namespace pimoe
