#include "train/micro_batch.h"

#include <algorithm>

namespace pimoe {
namespace {

int64_t peak_at_any_skew(const TrainConfig& config, const ForecastPlace& place) {
  const Forecast forecast(config, place);
  int64_t most = 0;
  for (const double skew : skews_to_bear(config.model.moe, kWorstSkew)) most = std::max(most, forecast.memory(skew).peak(place.on_gpu));
  return most + (place.on_gpu ? kGpuOverheadBytes : 0);
}

}  // namespace

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
