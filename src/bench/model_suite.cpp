#include "bench/suites.h"

#include "base/text.h"
#include "bench/report.h"
#include "model/flops.h"
#include "parallel/device.h"

namespace pimoe {

void run_model_suite(Bench& bench) {
  bench.gemm_ceiling();
  const StepMeasurement& step = bench.step();
  BenchRow row{.suite = "model", .name = "training step", .seconds = step.measured.seconds};
  row.summary = concat(grouped(static_cast<int64_t>(step.tokens_per_second())), " tokens/s");
  row.values["tokens"] = step.tokens;
  row.values["tokens_per_second"] = step.tokens_per_second();

  const TokenFlops flops = token_flops(bench.config().model);
  const double peak = peak_flops(bench.mesh().device());
  for (const auto& [convention, of_token] : {std::pair{"megatron", flops.megatron}, std::pair{"torchtitan", flops.torchtitan}}) {
    const double rate = of_token * step.tokens_per_second() / bench.mesh().size();  // of a rank
    const double share = rate / bench.gemm_ceiling();
    row.values[concat("tflops_", convention)] = rate / 1e12;
    row.values[concat("share_of_gemm_", convention)] = share;
    row.values[concat("mfu_", convention)] = nullptr;
    if (peak > 0) row.values[concat("mfu_", convention)] = rate / peak;
    row.details.push_back(concat("by ", convention, "'s count ", si_text(rate, "FLOP/s"), " a rank, ", percent_text(share), " of gemm",
                                 peak > 0 ? concat(", MFU ", percent_text(rate / peak)) : ""));
  }
  row.details.push_back(parts_text(step.measured.parts));
  for (const TimedPart& part : step.measured.parts) put_seconds(row.values, part.seconds, part.name + "_");
  if (step.gpu) {
    row.values["gpu_busy_share"] = step.gpu->busy_share();
    row.values["gpu_busy_seconds"] = step.gpu->busy_seconds;
    row.values["kernels"] = longest_kernels(*step.gpu);
    row.details.push_back(concat("the GPU was busy for ", percent_text(step.gpu->busy_share()), " of a recorded step of ",
                                 time_text(step.gpu->seconds), ": ", grouped(step.gpu->count()), " kernels, copies and fills"));
  }
  row.values["kept_bytes"] = step.kept_bytes;
  row.values["peak_bytes"] = step.peak_bytes;
  row.values["state_bytes"] = step.state_bytes;
  row.values["maxvio"] = step.maxvio;
  row.values["parameters"] = parameter_count(bench.config().model).total;
  row.values["first_loss"] = step.first_loss;
  row.values["skipped_steps"] = step.skipped_steps;
  if (step.skipped_steps > 0) {
    row.details.push_back(concat(counted(step.skipped_steps, "update"), " left out: loss or gradients were not finite"));
  }
  row.details.push_back(concat("weights, gradients, optimizer ", bytes_text(step.state_bytes), "; kept for backward ",
                               bytes_text(step.kept_bytes), "; at most ", bytes_text(step.peak_bytes)));
  bench.add(std::move(row));
}

}  // namespace pimoe
