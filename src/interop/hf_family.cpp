#include "interop/hf_family.h"

#include "base/errors.h"
#include "base/text.h"

#include <array>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<HfFamilyTraits, 5> kFamilies = {{
    {HfFamily::kLlama, "llama", "LlamaForCausalLM", false, false},
    {HfFamily::kQwen3, "qwen3", "Qwen3ForCausalLM", false, true},
    {HfFamily::kMixtral, "mixtral", "MixtralForCausalLM", true, false},
    {HfFamily::kQwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM", true, true},
    {HfFamily::kOlmoe, "olmoe", "OlmoeForCausalLM", true, true},
}};

/// Whether the chosen experts' gates add up to 1.
bool normalises(const RouterConfig& router) { return router.renormalize || router.by_logits(); }

/// @throws DataError naming the first key of model.moe that transformers' families do not have
void require_plain_experts(const MoeConfig& moe) {
  const auto refuse = [](const char* key, const auto& value, const char* why) {
    throw DataError(concat("model.moe.", key, " (", value, ") cannot be exported: ", why));
  };
  const RouterConfig& router = moe.router;
  if (router.kind != RouterKind::kSoftmax) refuse("router.kind", moe.router_kind(), "transformers' families route by softmax");
  if (router.route_scale != 1) refuse("router.route_scale", router.route_scale, "their gates are not scaled");
  if (router.groups > 1 && router.group_choices < router.groups) refuse("router.groups", router.groups, "their experts are in one group");
  if (router.projection > 0) refuse("router.projection", router.projection, "their routers score the tokens themselves");
  if (router.linear_bias) refuse("router.linear_bias", "true", "their routers have no biases");
  if (moe.shared_width > 0) refuse("shared_width", moe.shared_width, "they have no shared expert");
  if (moe.fallback_width > 0) refuse("fallback_width", moe.fallback_width, "they have no fallback network");
  for (const ExpertGroupConfig& group : moe.expert_groups()) {
    const bool plain = group.activation == Activation::kSwiglu && group.layers == 2;
    if (!plain || moe.groups.size() > 1) refuse("groups", concat("'", group.name, "'"), "their experts are all alike, of two-layer swiglu");
  }
}

}  // namespace

const HfFamilyTraits& traits_of(HfFamily family) { return kFamilies.at(static_cast<size_t>(family)); }

HfFamily family_of(const ModelConfig& model) {
  if (model.moe_layers() == 0) {
    if (model.norms_projections())
      throw DataError("model.qk_norm_over (projection) cannot be exported without experts: OLMoE alone has such norms");
    return model.qk_norm ? HfFamily::kQwen3 : HfFamily::kLlama;
  }
  require_plain_experts(model.moe);
  if (model.norms_heads()) return HfFamily::kQwen3Moe;
  if (model.norms_projections()) {
    if (model.moe.first_dense_layers > 0) {
      throw DataError(concat("model.moe.first_dense_layers (", model.moe.first_dense_layers,
                             ") cannot be exported with model.qk_norm_over (projection): every layer of OLMoE has experts"));
    }
    if (model.heads * model.head_size() != model.width) {
      throw DataError(concat("model.head_width (", model.head_size(),
                             ") cannot be exported with model.qk_norm_over (projection): OLMoE's is width / heads"));
    }
    return HfFamily::kOlmoe;
  }
  if (!normalises(model.moe.router)) {
    throw DataError("model.moe.router.renormalize (false) cannot be exported without model.qk_norm: Mixtral's gates add up to 1");
  }
  if (model.moe.first_dense_layers > 0) {
    throw DataError(concat("model.moe.first_dense_layers (", model.moe.first_dense_layers,
                           ") cannot be exported without model.qk_norm: every layer of Mixtral has experts"));
  }
  return HfFamily::kMixtral;
}

std::vector<std::string> doubts_about_export(const ModelConfig& model) {
  std::vector<std::string> doubts;
  if (model.moe_layers() == 0) return doubts;
  if (model.moe.capacity_factor > 0) {
    doubts.push_back(
        concat("model.moe.capacity_factor (", model.moe.capacity_factor, ") is not part of what is exported: no token is dropped there"));
  }
  if (model.moe.drops_above_budget()) {
    doubts.push_back(
        concat("model.moe.rank_budget (", model.moe.rank_budget, ") is not part of what is exported: no token is dropped there"));
  }
  return doubts;
}

Json config_of_model(const ModelConfig& model, const Json& carried, const std::string& dtype) {
  const HfFamily family = family_of(model);
  const HfFamilyTraits& traits = traits_of(family);
  if (const auto type = carried.find("model_type"); type != carried.end() && *type != traits.model_type) {
    throw DataError(
        concat("the checkpoint's model is a ", traits.model_type, ", and config.json beside its tokenizer is of a ", type->dump()));
  }
  Json config = {{"architectures", {traits.architecture}}};
  // Without an id of ours the class's default would count, which is another tokenizer's.
  for (const char* id : {"bos_token_id", "eos_token_id", "pad_token_id"}) config[id] = nullptr;
  config["attention_dropout"] = 0.0;
  config["initializer_range"] = model.initial_deviation;
  config["max_position_embeddings"] = model.sequence_length;
  config["use_cache"] = true;
  config.update(carried);
  for (const char* key : {"quantization_config", "compression_config", "auto_map"}) config.erase(key);

  config["model_type"] = traits.model_type;
  config["architectures"] = {traits.architecture};
  config["vocab_size"] = model.vocabulary;
  config["hidden_size"] = model.width;
  config["num_hidden_layers"] = model.layers;
  config["num_attention_heads"] = model.heads;
  config["num_key_value_heads"] = model.kv_heads;
  config["head_dim"] = model.head_size();
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = model.norm_epsilon;
  config["tie_word_embeddings"] = model.tie_embeddings;
  config["rope_theta"] = model.rope_theta;
  config["rope_parameters"] = {{"rope_theta", model.rope_theta}, {"rope_type", "default"}};
  config["rope_scaling"] = nullptr;
  config["torch_dtype"] = dtype;
  config["dtype"] = dtype;
  if (family != HfFamily::kMixtral) config["attention_bias"] = false;
  if (family == HfFamily::kLlama) config["mlp_bias"] = false;
  if (!config.contains("sliding_window") && family != HfFamily::kLlama && family != HfFamily::kOlmoe) config["sliding_window"] = nullptr;
  const MoeConfig& moe = model.moe;
  if (family == HfFamily::kOlmoe) {
    config["intermediate_size"] = moe.expert_groups()[0].width;
    config["num_experts"] = moe.experts;
    config["num_experts_per_tok"] = moe.choices;
    config["norm_topk_prob"] = normalises(moe.router);
    config["clip_qkv"] = nullptr;
  } else if (family == HfFamily::kMixtral) {
    config["intermediate_size"] = moe.expert_groups()[0].width;
    config["num_local_experts"] = moe.experts;
    config["num_experts_per_tok"] = moe.choices;
  } else if (model.moe_layers() < model.layers || !config.contains("intermediate_size")) {
    config["intermediate_size"] = model.feed_forward_width;  // without dense layers it says nothing
  }
  if (family == HfFamily::kQwen3Moe) {
    config.erase("num_local_experts");  // transformers 5 writes the one, and all versions read the other
    config["num_experts"] = moe.experts;
    config["num_experts_per_tok"] = moe.choices;
    config["moe_intermediate_size"] = moe.expert_groups()[0].width;
    config["norm_topk_prob"] = normalises(moe.router);
    config["decoder_sparse_step"] = 1;
    Json dense = Json::array();
    for (int64_t layer = 0; layer < moe.first_dense_layers; ++layer) dense.push_back(layer);
    config["mlp_only_layers"] = std::move(dense);
  }
  // Positions beyond what the run trained with are the origin's business.
  if (const auto positions = config.find("max_position_embeddings");
      !positions->is_number_integer() || positions->get<int64_t>() < model.sequence_length) {
    config["max_position_embeddings"] = model.sequence_length;
  }
  return config;
}

}  // namespace pimoe
