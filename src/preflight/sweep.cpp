#include "preflight/sweep.h"

#include "base/errors.h"
#include "base/text.h"
#include "preflight/remedies.h"
#include "train/micro_batch.h"

#include <algorithm>

namespace pimoe {

std::vector<SweptLayout> sweep(const TrainConfig& config, const ForecastPlace& place, const DeviceRates& rates, double skew,
                               int64_t limit_bytes) {
  const bool has_experts = config.model.moe_layers() > 0;
  const int64_t share = (config.train.global_batch + place.ranks - 1) / place.ranks;
  std::vector<int64_t> at_once;
  for (int64_t sequences = 1; sequences < share; sequences *= 2) at_once.push_back(sequences);
  at_once.push_back(share);
  std::vector<SweptLayout> found;
  for (int64_t expert_parallel = 1; expert_parallel <= place.ranks; ++expert_parallel) {
    if (place.ranks % expert_parallel != 0 ||
        (has_experts ? config.model.moe.common_divisor() % expert_parallel != 0 : expert_parallel > 1))
      continue;
    for (const int64_t sequences : at_once) {
      for (const RecomputePolicy policy : {RecomputePolicy::kNone, RecomputePolicy::kMoe, RecomputePolicy::kFull}) {
        if (policy == RecomputePolicy::kMoe && !has_experts) continue;
        TrainConfig changed = config;
        changed.mesh.expert_parallel = expert_parallel;
        changed.train.micro_batch = sequences;
        changed.train.recompute = policy;
        const Forecast forecast(changed, place);
        SweptLayout layout;
        for (const double each : skews_to_bear(changed.model.moe, skew)) {
          layout.peak = std::max(layout.peak, device_bytes(forecast.memory(each), place.on_gpu));
        }
        if (limit_bytes > 0 && layout.peak > limit_bytes) continue;
        const char* name = policy == RecomputePolicy::kNone ? "none" : policy == RecomputePolicy::kMoe ? "moe" : "full";
        layout.changes = {concat("mesh.expert_parallel=", expert_parallel), concat("train.micro_batch=", sequences),
                          concat("train.recompute=", name)};
        layout.time = step_time(changed, place, rates, 1.0);
        found.push_back(std::move(layout));
      }
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const SweptLayout& a, const SweptLayout& b) { return a.time.seconds < b.time.seconds; });
  return found;
}

}  // namespace pimoe
