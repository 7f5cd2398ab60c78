#include "preflight/remedies.h"

#include "base/errors.h"
#include "base/text.h"
#include "train/micro_batch.h"

#include <algorithm>
#include <functional>

namespace pimoe {

std::vector<Remedy> remedies(const TrainConfig& config, const ForecastPlace& place, double skew) {
  const auto most = [&](const Forecast& forecast, const TrainConfig& of) {
    int64_t bytes = 0;
    for (const double each : skews_to_bear(of.model.moe, skew)) bytes = std::max(bytes, device_bytes(forecast.memory(each), place.on_gpu));
    return bytes;
  };
  const Forecast now(config, place);
  const int64_t peak = most(now, config);
  std::vector<Remedy> found;
  const auto propose = [&](const std::string& change, const TrainConfig& changed, const ForecastPlace& where) {
    try {
      const int64_t then = most(Forecast(changed, where), changed);
      if (then < peak) found.push_back({change, peak - then, then});
    } catch (const ConfigError&) {  // the change does not fit the model: it is no remedy
    }
  };
  const auto change = [&](const std::string& text, const std::function<void(TrainConfig&)>& apply) {
    TrainConfig changed = config;
    apply(changed);
    propose(text, changed, place);
  };

  if (config.train.recompute == RecomputePolicy::kNone && config.model.moe_layers() > 0) {
    change("train.recompute=moe", [](TrainConfig& c) { c.train.recompute = RecomputePolicy::kMoe; });
  }
  if (config.train.recompute != RecomputePolicy::kFull) {
    change("train.recompute=full", [](TrainConfig& c) { c.train.recompute = RecomputePolicy::kFull; });
  }
  for (const int64_t parts : {2, 4}) {
    const int64_t fewer = now.sequences_at_once() / parts;
    if (fewer >= 1) change(concat("train.micro_batch=", fewer), [fewer](TrainConfig& c) { c.train.micro_batch = fewer; });
  }
  if (config.model.moe_layers() > 0) {
    const MoeConfig& moe = config.model.moe;
    if (moe.memory == MoeMemory::kFast) {
      change("model.moe.memory=balanced", [](TrainConfig& c) { c.model.moe.memory = MoeMemory::kBalanced; });
    }
    if (moe.memory != MoeMemory::kLean) {
      change("model.moe.memory=lean", [](TrainConfig& c) { c.model.moe.memory = MoeMemory::kLean; });
    }
    if (!moe.capacity_pad) {
      for (const double budget : {1.5, 1.0}) {
        if (moe.rank_budget > 0 && moe.rank_budget <= budget) continue;
        change(concat("model.moe.rank_budget=", budget), [budget](TrainConfig& c) { c.model.moe.rank_budget = budget; });
      }
    }
    for (const int64_t factor : {2, 4, 8}) {
      const int64_t wider = now.expert_parallel() * factor;
      if (place.ranks % wider != 0) continue;
      change(concat("mesh.expert_parallel=", wider), [wider](TrainConfig& c) { c.mesh.expert_parallel = wider; });
    }
  }
  ForecastPlace more = place;
  more.ranks *= 2;
  propose(concat("--ranks ", more.ranks, " (twice the ranks)"), config, more);
  std::stable_sort(found.begin(), found.end(), [](const Remedy& a, const Remedy& b) { return a.bytes > b.bytes; });
  return found;
}

}  // namespace pimoe
