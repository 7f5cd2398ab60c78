#include "train/idle_keys.h"

#include "base/config_values.h"
#include "base/number_text.h"
#include "base/text.h"
#include "train/presets.h"

#include <algorithm>
#include <map>

namespace pimoe {
namespace {

/// Why keys do nothing, by their full path. A key that stands for a group of keys ("model.moe.") gives its reason to all below it.
using Reasons = std::map<std::string, std::string>;

void idle_of_router(const MoeConfig& moe, Reasons& reasons) {
  const RouterConfig& router = moe.router;
  const auto idle = [&](const char* name, bool is_idle, const std::string& because) {
    if (is_idle) reasons.emplace(concat("model.moe.router.", name), because);
  };
  const bool learns = moe.router_traits().has_scores;
  for (const char* name : {"temperature", "jitter", "projection", "linear_bias", "initial_skew"}) {
    idle(name, !learns, "router.kind hash and uniform have no scores");
  }
  idle("pre_softmax", router.kind != RouterKind::kSoftmax, "it is router.kind softmax's alone");
  idle("renormalize", !moe.steerable(), "this router.kind never divides gates by their sum");
  idle("renormalize", router.kind == RouterKind::kSoftmax && !router.pre_softmax,
       "with pre_softmax false the gates are a softmax over the chosen experts, whose sum is 1 already");
  const std::string all_groups = concat("router.group_choices (", router.group_choices, ") lets a token use all of its groups");
  idle("groups", router.groups > 1 && router.group_choices == router.groups, all_groups);
  for (const char* name : {"group_choices", "group_score", "group_top"}) {
    idle(name, router.groups == 1, "router.groups is 1: experts are in no groups");
    idle(name, router.group_choices == router.groups && std::string(name) != "group_choices", all_groups);
  }
  idle("group_top", router.group_score == GroupScore::kMax, "router.group_score is max: a group's best expert alone counts");
}

void idle_of_balance(const MoeConfig& moe, Reasons& reasons) {
  const auto idle = [&](const char* name, bool is_idle, const std::string& because) {
    if (is_idle) reasons.emplace(concat("model.moe.", name), because);
  };
  const BalanceConfig& balance = moe.balance;
  const AdaptiveConfig& adaptive = moe.adaptive;
  if (!moe.router_traits().has_scores) {
    const std::string because = "router.kind hash and uniform learn nothing that could balance";
    idle("balance.", true, because);
  }
  if (moe.router_traits().by_expert) {
    for (const char* name : {"balance.bias_rate", "balance.bias_law", "balance.bias_schedule"}) {
      idle(name, true, "with router.kind expert_choice the experts choose, and no bias is added");
    }
  }
  // The window and the entropy are of the alarms too, which every run has.
  for (const char* name :
       {"enabled", "target_maxvio", "bias_rate_start", "bias_rate_min", "bias_rate_max", "switch_loss_max", "temperature_max"}) {
    idle(concat("adaptive.", name).c_str(), !moe.steerable(), "adaptive control needs router.kind softmax or sigmoid: nothing is moved");
  }
  for (const char* name : {"balance.bias_law", "balance.bias_schedule"}) {
    idle(name, adaptive.enabled, "adaptive.enabled sets the bias rates by its own law");
    idle(name, balance.bias_rate == 0, "balance.bias_rate is 0");
  }
  for (const char* name : {"target_maxvio", "bias_rate_start", "bias_rate_min", "bias_rate_max", "switch_loss_max", "temperature_max"}) {
    idle(concat("adaptive.", name).c_str(), !adaptive.enabled, "adaptive.enabled is false");
  }
  for (const char* name : {"adaptive.bias_rate_start", "adaptive.bias_rate_min"}) {
    idle(name, adaptive.bias_rate_max == 0, "adaptive.bias_rate_max is 0: the bias is not used");
  }
  idle("adaptive.switch_loss_max", adaptive.switch_loss_max > 0 && adaptive.switch_loss_max <= balance.switch_loss,
       concat("it is not above balance.switch_loss (", shortest(balance.switch_loss), "), where the coefficient begins"));
  idle("adaptive.temperature_max", adaptive.temperature_max > 0 && adaptive.temperature_max <= moe.router.temperature,
       concat("it is not above router.temperature (", shortest(moe.router.temperature), "), where the temperature begins"));
}

void idle_of_moe(const MoeConfig& moe, const IdlePlace& place, Reasons& reasons) {
  const auto idle = [&](const char* name, bool is_idle, const std::string& because) {
    if (is_idle) reasons.emplace(concat("model.moe.", name), because);
  };
  const bool own_widths = std::all_of(moe.groups.begin(), moe.groups.end(), [](const ExpertGroupConfig& group) { return group.width > 0; });
  idle("expert_width", !moe.groups.empty() && own_widths, "each of model.moe.groups has a width of its own");
  idle("capacity_drop", moe.capacity_factor == 0, "model.moe.capacity_factor is 0: nothing is dropped");
  idle("rank_overflow", moe.rank_budget == 0, "model.moe.rank_budget is 0: there is no budget to exceed");
  idle("shared_gate", moe.shared_width == 0, "model.moe.shared_width is 0: there is no shared expert");
  idle("shared_overlap", moe.shared_width == 0, "model.moe.shared_width is 0: there is no shared expert");
  idle("shared_overlap", place.on_cpu, "the run is on CPUs, and it is of GPUs that share out the experts");
  idle("shared_overlap", place.expert_parallel == 1, "each rank has all experts (expert_parallel is 1): no tokens travel meanwhile");
  idle("fallback_width", !moe.may_drop() && !moe.router_traits().by_expert && moe.checks != MoeValidate::kFull,
       "every token is served: no slot is dropped, and model.moe.validate does not set any aside");
  idle_of_router(moe, reasons);
  idle_of_balance(moe, reasons);
}

void idle_of_attention(const ModelConfig& model, Reasons& reasons) {
  const auto idle = [&](const char* key, bool is_idle, const char* because) {
    if (is_idle) reasons.emplace(concat("model.", key), because);
  };
  idle("qk_norm_over", !model.qk_norm, "model.qk_norm is false");
  for (const char* key : {"kv_heads", "head_width"}) idle(key, model.is_latent(), "model.latent.kv_rank sets latent attention");
  for (const char* key : {"query_rank", "plain_width", "rotary_width", "value_width", "interleaved", "norm_epsilon"}) {
    idle(concat("latent.", key).c_str(), !model.is_latent(), "model.latent.kv_rank is 0: there is no latent attention");
  }
  const RotaryScaling scaling = model.rotary.scaling;
  idle("rotary.factor", scaling == RotaryScaling::kNone, "model.rotary.scaling is none");
  idle("rotary.original_length", scaling == RotaryScaling::kNone || scaling == RotaryScaling::kLinear,
       "model.rotary.scaling does not go by it");
  for (const char* key : {"attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate"}) {
    idle(concat("rotary.", key).c_str(), scaling != RotaryScaling::kYarn, "it is model.rotary.scaling yarn's alone");
  }
  for (const char* key : {"low_frequency_factor", "high_frequency_factor"}) {
    idle(concat("rotary.", key).c_str(), scaling != RotaryScaling::kLlama3, "it is model.rotary.scaling llama3's alone");
  }
}

Reasons reasons_of(const TrainConfig& config, const IdlePlace& place) {
  Reasons reasons;
  const auto idle = [&](const char* key, bool is_idle, const std::string& because) {
    if (is_idle) reasons.emplace(key, because);
  };
  const ModelConfig& model = config.model;
  if (model.moe_layers() > 0) {
    idle_of_moe(model.moe,
                {.on_cpu = place.on_cpu || config.mesh.device == DeviceChoice::kCpu,
                 .expert_parallel = config.mesh.expert_parallel > 0 ? config.mesh.expert_parallel : place.expert_parallel},
                reasons);
  } else {
    const std::string because = model.moe.experts == 0 ? "model.moe.experts is 0: the model is dense" : "no layer of the model has experts";
    for (const char* key : {"model.moe.", "log.routing."}) idle(key, true, because);
    idle("train.recompute", config.train.recompute == RecomputePolicy::kMoe, because);
  }
  idle("model.feed_forward_width", model.moe_layers() == model.layers, "every layer has experts in place of a dense network");
  idle_of_attention(model, reasons);
  idle("model.initial_deviation", !model.initial_weights.empty() && model.upcycle.empty(),
       "model.initial_weights has all weights: none is drawn");
  idle("run.walltime_margin", config.run.walltime.empty(), "run.walltime is empty: the run never leaves by the clock");
  for (const char* key : {"train.validate_every", "train.validation_batches"}) {
    idle(key, config.data.validation.empty(), "data.validation is empty");
  }
  idle("optimizer.final_ratio", config.optimizer.schedule == Schedule::kConstant, "optimizer.schedule is constant");
  idle("optimizer.decay_share", config.optimizer.schedule != Schedule::kWarmupStableDecay,
       "it is optimizer.schedule warmup_stable_decay's alone");
  idle("checkpoint.retry_seconds", config.checkpoint.on_error == OnSaveError::kStop,
       "checkpoint.on_error is stop: a save that fails is not tried again");
  idle("log.routing.tokens", config.log.routing.every_steps == 0, "log.routing.every_steps is 0: nothing is recorded");
  return reasons;
}

/// The reason for a key, or for a group of keys that it is in; null: it does something.
const std::string* reason_for(const std::string& key, const Reasons& reasons) {
  // These decide whether there are layers with experts.
  if (key == "model.moe.experts" || key == "model.moe.first_dense_layers") return nullptr;
  if (const auto found = reasons.find(key); found != reasons.end()) return &found->second;
  for (size_t dot = key.rfind('.'); dot != std::string::npos && dot > 0; dot = key.rfind('.', dot - 1)) {
    if (const auto found = reasons.find(key.substr(0, dot + 1)); found != reasons.end()) return &found->second;
  }
  return nullptr;
}

ConfigValues values_of(TrainConfig config) {
  return config_values([&](FieldVisitor& visit) { config.fields(visit); });
}

}  // namespace

std::vector<std::string> idle_keys(const TrainConfig& config, const ConfigOrigins& origins, const IdlePlace& place) {
  const Reasons reasons = reasons_of(config, place);
  const ConfigValues of_defaults = values_of(TrainConfig());
  const std::map<std::string, std::string> defaults(of_defaults.begin(), of_defaults.end());
  std::vector<std::string> lines;
  for (const auto& [key, value] : values_of(config)) {
    const std::string origin = origins.of(key);
    if (origin.empty() || origin.starts_with(kPresetOrigin)) continue;
    if (const auto usual = defaults.find(key); usual != defaults.end() && usual->second == value) continue;
    const std::string* reason = reason_for(key, reasons);
    if (reason != nullptr) lines.push_back(concat(key, " (", value, ", ", origin, ") has no effect, because ", *reason));
  }
  return lines;
}

std::vector<std::string> idle_keys(const ConfigSource& file, const std::vector<std::string>& overrides,
                                   const PretrainedDefaults& pretrained, const IdlePlace& place) {
  TrainConfig config;
  const ConfigOrigins origins = read_train_config(file, overrides, pretrained, config);
  return idle_keys(config, origins, place);
}

}  // namespace pimoe
