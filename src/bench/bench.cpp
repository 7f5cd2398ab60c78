#include "bench/bench.h"

#include "base/errors.h"
#include "base/text.h"
#include "bench/report.h"

#include <ATen/Context.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

namespace pimoe {
namespace {

int64_t over_ranks(const ProcessMesh& mesh, int64_t of_rank, ReduceOp op) {
  at::Tensor number = at::tensor({of_rank}, at::kLong);
  mesh.control().all_reduce(number, op);
  return number.item<int64_t>();
}

}  // namespace

Bench::Bench(const TrainConfig& config, at::ScalarType dtype, const ProcessMesh& mesh, Logger& log, const BenchOptions& options)
    : config_(config), dtype_(dtype), mesh_(mesh), log_(log), options_(options) {
  at::manual_seed(static_cast<uint64_t>(config.run.seed + mesh.rank()));  // other tokens on each rank
  if (!config_.model.moe.router.replay.empty()) {
    config_.model.moe.router.replay.clear();
    log.info("model.moe.router.replay is left out: what it recorded are decisions for other tokens");
  }
}

double Bench::ceiling(const std::string& name) {
  if (const auto known = ceilings_.find(name); known != ceilings_.end()) return known->second.rate;
  for (Ceiling& ceiling : ceilings_of(*this)) {
    if (ceiling.name != name) continue;
    if (ceiling.settle) ceiling.settle(ceiling);
    const double rate = measure_ceiling(ceiling, std::nullopt);
    ceilings_[name] = {std::move(ceiling), rate};
    return rate;
  }
  throw Error(concat("there is no ceiling '", name, "'"));
}

void Bench::measure_ceilings_again() {
  for (const Ceiling& ceiling : ceilings_of(*this)) {
    const auto known = ceilings_.find(ceiling.name);
    if (known != ceilings_.end()) measure_ceiling(known->second.ceiling, known->second.rate);
  }
}

double Bench::measure_ceiling(const Ceiling& ceiling, std::optional<double> at_start) {
  log_.info("measuring " + ceiling.name);
  const Work work = ceiling.prepare();
  const Measurement measured = ceiling.is_light ? measure_lightly(ceiling.clock, work) : measure(ceiling.clock, work);
  const double best = ceiling.amount / measured.seconds.low;
  const double unit = ceiling.is_flops ? 1e12 : 1e9;
  const std::string rate = ceiling.is_flops ? "tflops" : "gigabytes_per_second";
  BenchRow row{.suite = "ceilings", .name = ceiling.name, .seconds = measured.seconds};
  row.values["when"] = at_start ? "end" : "start";
  row.values[rate] = ceiling.amount / measured.seconds.median / unit;
  row.values["best_" + rate] = best / unit;
  row.values[ceiling.is_flops ? "flop" : "bytes"] = ceiling.amount;
  if (!ceiling.group.empty()) row.values["group"] = ceiling.group;
  row.summary = si_text(best, ceiling.is_flops ? "FLOP/s" : "B/s") + " at best";
  if (at_start) {
    row.values["ratio_to_start"] = best / *at_start;
    row.summary += concat(", ", percent_text(best / *at_start), " of the start");
  }
  add(std::move(row));
  return best;
}

const StepMeasurement& Bench::step() {
  if (!step_) {
    log_.info("measuring the training step");
    step_ = measure_step(*this);
  }
  return *step_;
}

const ScratchFolder& Bench::scratch() {
  if (!scratch_) scratch_ = std::make_unique<ScratchFolder>(config_.run.directory, mesh_);
  return *scratch_;
}

int64_t Bench::most(int64_t of_rank) const { return over_ranks(mesh_, of_rank, ReduceOp::kMax); }

int64_t Bench::total(int64_t of_rank) const { return over_ranks(mesh_, of_rank, ReduceOp::kSum); }

}  // namespace pimoe
