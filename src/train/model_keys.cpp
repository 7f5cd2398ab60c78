#include "train/model_keys.h"

namespace pimoe {

ConfigValues model_identity(ModelConfig model, const ModelConfig& other) {
  model.initial_deviation = other.initial_deviation;
  model.initial_weights = other.initial_weights;
  model.upcycle = other.upcycle;
  MoeConfig& moe = model.moe;
  moe.balance = other.moe.balance;
  moe.adaptive = other.moe.adaptive;
  moe.capacity_factor = other.moe.capacity_factor;
  moe.capacity_drop = other.moe.capacity_drop;
  moe.capacity_pad = other.moe.capacity_pad;
  moe.rank_budget = other.moe.rank_budget;
  moe.exchange = other.moe.exchange;
  moe.rank_overflow = other.moe.rank_overflow;
  moe.memory = other.moe.memory;
  moe.checks = other.moe.checks;
  moe.router.jitter = other.moe.router.jitter;
  moe.router.initial_skew = other.moe.router.initial_skew;
  moe.router.replay = other.moe.router.replay;
  ConfigValues all = config_values([&](FieldVisitor& visit) { model.fields(visit); });
  for (auto& [key, value] : all) key = "model." + key;
  return all;
}

}  // namespace pimoe
