#include "bench/suites.h"

#include "base/text.h"
#include "bench/gpu_timeline.h"
#include "bench/layer_under_test.h"
#include "bench/report.h"
#include "bench/steered_router.h"
#include "model/flops.h"
#include "moe/load_statistics.h"
#include "parallel/device.h"

#include <optional>

namespace pimoe {
namespace {

void measure_routing(Bench& bench, LayerUnderTest& layer, const std::string& routing) {
  const ModelConfig& model = bench.config().model;
  const int64_t tokens = LayerUnderTest::tokens_of(bench.config());
  const Measurement measured = bench.measure(Clock::kDevice, [&](Parts& parts) { layer.run(parts); });
  const LayerUnderTest::Memory memory = layer.memory();
  const int64_t kept = bench.most(memory.kept_bytes);
  const int64_t peak = bench.most(memory.peak_bytes);
  const double rate = static_cast<double>(tokens) * expert_flops(model) / measured.seconds.median;
  const double violation = maxvio(layer.loads());
  const c10::Device device = bench.mesh().device();
  const std::optional<GpuTimeline> gpu = record_gpu(device, [&] {
    Parts unread;
    layer.run(unread);
    synchronize(device);
  });

  BenchRow row{.suite = "layer", .name = routing, .seconds = measured.seconds};
  row.values["tokens_of_a_rank"] = tokens;
  row.values["tflops"] = rate / 1e12;
  row.values["share_of_gemm"] = rate / bench.gemm_ceiling();
  for (const TimedPart& part : measured.parts) put_seconds(row.values, part.seconds, part.name + "_");
  row.values["kept_bytes"] = kept;
  row.values["peak_bytes"] = peak;
  row.values["maxvio"] = violation;
  if (gpu) row.values["kernels"] = longest_kernels(*gpu);
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
