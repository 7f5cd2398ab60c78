#include "interop/upcycle.h"

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {
namespace {

constexpr int64_t kMostExperts = 1023;

/// The part of a copy that one expert is: rows of gate and up, columns of down.
HfPart part_of(HfPart whole, int64_t dimension, int64_t index, int64_t of) {
  Box block = Box::whole(whole.shape);
  const auto at = static_cast<size_t>(dimension);
  block.shape[at] /= of;
  block.offset[at] = index * block.shape[at];
  whole.block = block;
  return whole;
}

}  // namespace

void Upcycling::fields(FieldVisitor& visit) {
  visit.integer("experts", experts, {.at_least = 1, .at_most = kMostExperts}, "copies of each feed-forward network");
  visit.integer("choices", choices, {.at_least = 1, .at_most = kMostExperts}, "copies that a token passes");
  visit.integer("split", split, {.at_least = 1, .at_most = kMostExperts}, "experts that each copy is cut into");
  visit.integer("dense_layers", dense_layers, {.at_least = 0, .at_most = 10'000}, "layers in front that stay as they are");
  visit.number("noise", noise, {.at_least = 0, .at_most = 1}, "experts' weights times 1 + noise * N(0, 1)");
}

Upcycling parse_upcycling(const std::string& text, const std::string& name) try {
  Upcycling how;
  how.name = name;
  load_fields("", name, split(text, ','), [&](FieldVisitor& visit) { how.fields(visit); });
  return how;
} catch (const ConfigError& error) {  // the contract: these are an option's parts, and no configuration
  throw UsageError(concat(name, " (", text, "): ", error.what()));
}

ModelConfig upcycled(const ModelConfig& dense, const Upcycling& how) {
  const auto refuse = [&how](const char* key, int64_t value, const auto&... rule) {
    throw DataError(concat(how.name, " ", key, " (", value, ") ", rule...));
  };
  if (dense.moe_layers() > 0) throw DataError(concat(how.name, " is for dense models; this one has experts"));
  if (how.choices > how.experts) refuse("choices", how.choices, "must be at most experts (", how.experts, ")");
  if (how.experts * how.split > kMostExperts) {
    refuse("split", how.split, "times experts (", how.experts, ") must be at most ", kMostExperts, " experts");
  }
  if (dense.feed_forward_width % how.split != 0) {
    refuse("split", how.split, "must divide the feed-forward networks' width (", dense.feed_forward_width, ")");
  }
  if (how.dense_layers >= dense.layers) refuse("dense_layers", how.dense_layers, "must be below the model's layers (", dense.layers, ")");
  ModelConfig model = dense;
  model.moe = MoeConfig();
  model.moe.experts = how.experts * how.split;
  model.moe.choices = how.choices * how.split;
  model.moe.expert_width = dense.feed_forward_width / how.split;
  model.moe.first_dense_layers = how.dense_layers;
  return model;
}

std::vector<WeightPlan> upcycled_plans(std::vector<WeightPlan> plans, const ModelConfig& model, const Upcycling& how) {
  const int64_t width = model.width;
  const int64_t inner = model.moe.expert_width;
  std::vector<WeightPlan> result;
  for (WeightPlan& plan : plans) {
    const size_t at = plan.name.find(".feed_forward.");
    if (at == std::string::npos || !model.is_moe_layer(std::stoll(plan.name.substr(std::string("layers.").size())))) {
      result.push_back(std::move(plan));
      continue;
    }
    const std::string layer = plan.name.substr(0, at) + ".moe.";
    if (plan.name.ends_with(".gate_up.weight")) {
      result.push_back({.name = layer + "router.weight", .shape = {model.moe.experts, width}, .parts = {}, .repeat = how.split});
      result.push_back({.name = layer + "experts.gate_up.weight", .shape = {model.moe.experts, 2 * inner, width}, .parts = {}});
      for (int64_t expert = 0; expert < model.moe.experts; ++expert) {
        for (const HfPart& part : plan.parts) result.back().parts.push_back(part_of(part, 0, expert % how.split, how.split));
      }
    } else {
      result.push_back({.name = layer + "experts.down.weight", .shape = {model.moe.experts, width, inner}, .parts = {}});
      for (int64_t expert = 0; expert < model.moe.experts; ++expert) {
        result.back().parts.push_back(part_of(plan.parts[0], 1, expert % how.split, how.split));
      }
      result.back().factor = static_cast<double>(how.split);
    }
    result.back().noise = how.noise;
  }
  return result;
}

nlohmann::ordered_json config_of_any_family(const nlohmann::ordered_json& config) {
  nlohmann::ordered_json kept = nlohmann::ordered_json::object();
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "initializer_range"}) {
    if (config.contains(key)) kept[key] = config[key];
  }
  return kept;
}

}  // namespace pimoe
