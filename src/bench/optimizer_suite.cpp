#include "bench/suites.h"

#include "base/text.h"
#include "bench/report.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>

namespace pimoe {
namespace {

/// Bytes that this rank's part of one pass reads and writes at least.
struct PassBytes {
  int64_t norm = 0;  ///< gradients, read
  int64_t step = 0;  ///< gradients read; masters and both moments read and written; weights written where they are not the masters
};

PassBytes pass_bytes(const ParameterBuckets& buckets) {
  PassBytes bytes;
  for (const Bucket& bucket : buckets.buckets()) {
    const ElementBytes element = ElementBytes::of(bucket.dtype);
    const int64_t count = bucket.slice_end - bucket.slice_begin;
    bytes.norm += count * element.wide;
    bytes.step += count * (element.wide + 3 * 2 * element.wide + (element.compute < element.wide ? element.compute : 0));
  }
  return bytes;
}

void measure_pass(Bench& bench, const std::string& name, int64_t bytes_of_rank, const Work& work) {
  const Measurement measured = bench.measure(Clock::kDevice, work);
  const int64_t bytes = bench.most(bytes_of_rank);
  const double rate = static_cast<double>(bytes) / measured.seconds.median;
  BenchRow row{.suite = "optimizer", .name = name, .seconds = measured.seconds};
  row.values["bytes"] = bytes;
  row.values["gigabytes_per_second"] = rate / 1e9;
  row.values["share_of_copy"] = rate / bench.copy_ceiling();
  row.summary = concat(bytes_text(bytes), ", ", si_text(rate, "B/s"), ", ", percent_text(rate / bench.copy_ceiling()), " of copy");
  bench.add(std::move(row));
}

}  // namespace

void run_optimizer_suite(Bench& bench) {
  bench.copy_ceiling();
  TrainingStep training(bench);
  Learner& learner = training.learner();
  for (const Bucket& bucket : learner.buckets().buckets()) at::Tensor(bucket.gradients).normal_(0.0, 1e-3);
  const OptimizerConfig& config = bench.config().optimizer;
  // Clipped, as in most steps of a run.
  const double norm = config.clip_norm > 0 ? 1.001 * config.clip_norm : 1.0;
  const PassBytes bytes = pass_bytes(learner.buckets());
  measure_pass(bench, "gradient norm", bytes.norm, [&](Parts&) { learner.optimizer().gradient_norm(1.0); });
  measure_pass(bench, "step", bytes.step, [&](Parts&) { learner.optimizer().step(config.learning_rate, norm, 1.0); });
}

}  // namespace pimoe
