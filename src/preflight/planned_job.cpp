#include "preflight/planned_job.h"

#include "base/text.h"
#include "ops/routed_mlp.h"
#include "train/micro_batch.h"

#include <algorithm>
#include <utility>

namespace pimoe {
namespace {

constexpr int64_t kUsualNode = 8;

/// What the report shows, by name, in order of skew.
std::vector<std::pair<std::string, double>> columns_of(const PlannedJob& job, const std::vector<double>& bear) {
  std::vector<std::pair<std::string, double>> columns = {{"at balance", 1.0}, {"at worst skew", kWorstSkew}};
  if (job.skew != 1.0 && job.skew != kWorstSkew) columns.insert(columns.begin() + 1, {concat("at skew ", job.skew_name), job.skew});
  if (bear.size() > 1 && bear[1] > 1.0) columns.insert(columns.begin() + 1, {"in a full round", bear[1]});
  return columns;
}

/// @returns the column that needs most memory, of those that have to fit
size_t fullest_column(const CheckReport& report, const std::vector<double>& bear) {
  std::optional<size_t> fullest;
  for (size_t column = 0; column < report.skews.size(); ++column) {
    if (std::find(bear.begin(), bear.end(), report.skews[column].skew) == bear.end()) continue;
    if (!fullest || report.peak(column) > report.peak(*fullest)) fullest = column;
  }
  return fullest.value();
}

/// @returns how many checkpoints more than there are now lie on the disk at one time: one more than is kept, while the next is written
int64_t most_new_checkpoints(const CheckpointConfig& config, int64_t saves, int64_t there) {
  return std::max<int64_t>(0, std::min(saves, config.keep + 1 - std::min(config.keep, there)));
}

}  // namespace

int64_t usual_node(int64_t ranks) {
  int64_t node = std::min(ranks, kUsualNode);
  while (ranks % node != 0) --node;
  return node;
}

int64_t checkpoints_written(const TrainConfig& config) {
  const int64_t every = config.checkpoint.every_steps;
  const int64_t due = every > 0 ? config.train.steps / every : 0;
  const bool last_is_due = every > 0 && config.train.steps % every == 0;
  return due + (config.checkpoint.at_end && !last_is_due ? 1 : 0);
}

void look_at_layout(const TrainConfig& config, const PlannedJob& job, Preflight& found) {
  if (config.mesh.device == DeviceChoice::kCuda && !job.device.is_gpu) {
    found.troubles.push_back({ExitCode::kBadConfig, "mesh.device (cuda) needs a GPU; this check is for --device cpu"});
  }
  if (config.mesh.transport == Transport::kNccl && (!job.device.is_gpu || config.mesh.device == DeviceChoice::kCpu)) {
    found.troubles.push_back({ExitCode::kBadConfig, "mesh.transport (nccl) needs mesh.device cuda; this run's device is cpu"});
  }
  if (job.ranks % job.node_ranks != 0) {
    found.warnings.push_back(concat("--ranks-per-node (", job.node_ranks, ") does not divide --ranks (", job.ranks,
                                    "): mesh.expert_parallel=auto goes by what divides the ranks of every node"));
  }
  for (const std::string& doubt : doubts_about(config, job.ranks)) found.warnings.push_back(doubt);
}

void foretell(const TrainConfig& asked, const PlannedJob& job, CheckReport& report) {
  TrainConfig config = asked;
  ForecastPlace place{.ranks = job.ranks, .node_ranks = job.node_ranks, .on_gpu = job.device.is_gpu, .fuses_mlp = job.device.is_hopper};
  if (!job.device.is_gpu) place.fuses_mlp = has_routed_mlp_kernels(c10::DeviceType::CPU);

  place.dtype = config.train.precision != Precision::kAuto ? compute_dtype(config.train.precision, c10::DeviceType::CPU)
                : job.device.fast_bfloat16                 ? at::kBFloat16
                                                           : at::kFloat;
  report.precision = dtype_name(place.dtype);
  report.has_experts = config.model.moe_layers() > 0;
  report.limit_bytes = job.memory_bytes.value_or(static_cast<int64_t>(job.device.memory_gib * static_cast<double>(int64_t{1} << 30)));
  const bool fits_a_layout = report.found.attempt([&] {
    if (config.train.micro_batch == 0) config.train.micro_batch = largest_micro_batch(config, place, report.limit_bytes);
    report.forecast.emplace(config, place);
  });
  if (!fits_a_layout) return;

  const std::vector<double> bear = report.has_experts ? skews_to_bear(config.model.moe, job.skew) : std::vector{job.skew};
  report.any_skew = bear.size() > 1;
  for (const auto& [name, skew] : columns_of(job, bear)) {
    report.skews.push_back({name, skew, report.forecast->memory(skew), report.has_experts ? report.forecast->rows(skew) : RoutedRows{}});
  }
  report.judged = fullest_column(report, bear);

  report.saves = checkpoints_written(config);
  const int64_t most = most_new_checkpoints(config.checkpoint, report.saves, report.found.folder.checkpoints);
  report.disk_bytes = most * report.forecast->checkpoint_bytes();
  if (!report.memory_fits()) report.remedies = remedies(config, place, job.skew);

  std::optional<DeviceRates> rates = shipped_rates(job.device.name, report.precision);
  if (!job.ceilings.empty() && !report.found.attempt([&] { rates = read_rates(job.ceilings, report.precision, rates); })) return;
  if (!rates) {
    if (job.sweep) {
      report.found.troubles.push_back({ExitCode::kUsage, concat("--sweep compares times, and no rates are shipped for ", job.device.name,
                                                                ": it needs --ceilings FILE")});
    }
    return;
  }
  report.rates = *rates;
  report.time = step_time(config, place, *rates, 1.0);
  report.swept = job.sweep;
  if (job.sweep) report.sweep = sweep(config, place, *rates, job.skew, report.limit_bytes);
}

}  // namespace pimoe
