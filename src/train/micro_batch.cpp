#include "train/micro_batch.h"

#include <algorithm>

namespace pimoe {
namespace {

int64_t peak_at_any_skew(const TrainConfig& config, const ForecastPlace& place) {
  const Forecast forecast(config, place);
  int64_t most = 0;
  for (const double skew : skews_to_bear(config.model.moe, kWorstSkew))
    most = std::max(most, device_bytes(forecast.memory(skew), place.on_gpu));
  return most;
}

}  // namespace

int64_t overhead_bytes(const MemoryForecast& memory, bool on_gpu) {
  if (on_gpu) return kGpuOverheadBytes;
  const ActivationBytes& activations = memory.activations;
  const int64_t loss = activations.loss_workspace;
  const int64_t in_its_place = std::max<int64_t>(0, activations.layer_workspace - activations.loss);
  const int64_t left = std::clamp<int64_t>(2 * loss - in_its_place, 0, loss);
  return kCpuOverheadBytes + static_cast<int64_t>(kCpuOverheadShare * static_cast<double>(memory.state() + activations.peak()) +
                                                  kCpuLossShare * static_cast<double>(left));
}

int64_t largest_micro_batch(const TrainConfig& config, const ForecastPlace& place, int64_t limit_bytes) {
  const int64_t share = (config.train.global_batch + place.ranks - 1) / place.ranks;
  if (limit_bytes == 0) return share;
  TrainConfig tried = config;
  for (int64_t micro_steps = 1; micro_steps < share; ++micro_steps) {
    const int64_t sequences = (share + micro_steps - 1) / micro_steps;
    if (micro_steps > 1 && sequences == tried.train.micro_batch) continue;  // as many as before: micro-steps more, and nothing won
    tried.train.micro_batch = sequences;
    if (peak_at_any_skew(tried, place) <= limit_bytes) return sequences;
  }
  return 1;
}

}  // namespace pimoe
