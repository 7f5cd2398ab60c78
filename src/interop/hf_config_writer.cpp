/// config.json of Hugging Face transformers, as versions 4 and 5 read it.

#include "base/errors.h"
#include "base/text.h"
#include "interop/hf_family.h"
#include "interop/hf_rotary.h"

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

void write_experts(HfFamily family, const ModelConfig& model, Json& config) {
  const MoeConfig& moe = model.moe;
  if (family == HfFamily::kOlmoe) {
    config["intermediate_size"] = moe.expert_groups()[0].width;
    config["num_experts"] = moe.experts;
    config["num_experts_per_tok"] = moe.choices;
    config["norm_topk_prob"] = moe.router.normalises();
    config["clip_qkv"] = nullptr;
  } else if (family == HfFamily::kMixtral) {
    config["intermediate_size"] = moe.expert_groups()[0].width;
    config["num_local_experts"] = moe.experts;
    config["num_experts_per_tok"] = moe.choices;
  } else if (model.moe_layers() < model.layers || !config.contains("intermediate_size")) {
    config["intermediate_size"] = model.feed_forward_width;  // without dense layers it says nothing
  }
  if (family == HfFamily::kQwen3Moe || family == HfFamily::kQwen2Moe) {
    config.erase("num_local_experts");  // transformers 5 writes the one, and all versions read the other
    config["num_experts"] = moe.experts;
    config["num_experts_per_tok"] = moe.choices;
    config["moe_intermediate_size"] = moe.expert_groups()[0].width;
    config["norm_topk_prob"] = moe.router.normalises();
    config["decoder_sparse_step"] = 1;
    Json dense = Json::array();
    for (int64_t layer = 0; layer < moe.first_dense_layers; ++layer) dense.push_back(layer);
    config["mlp_only_layers"] = std::move(dense);
  }
  if (family == HfFamily::kQwen2Moe) {
    config["qkv_bias"] = model.qkv_bias;
    config["shared_expert_intermediate_size"] = moe.shared_width;
  }
}

/// DeepSeek's attention, router and experts.
void write_deepseek(HfFamily family, const ModelConfig& model, Json& config) {
  const LatentConfig& latent = model.latent;
  config["num_key_value_heads"] = model.heads;
  config["kv_lora_rank"] = latent.kv_rank;
  config["q_lora_rank"] = latent.query_rank > 0 ? Json(latent.query_rank) : Json();
  config["qk_nope_head_dim"] = latent.plain_width;
  config["qk_rope_head_dim"] = latent.rotary_width;
  config["qk_head_dim"] = model.key_width();
  config["v_head_dim"] = latent.value_width;
  const bool second = family == HfFamily::kDeepseekV2;
  if (!second) {
    config["rope_interleave"] = latent.interleaved;
    config["num_nextn_predict_layers"] = 0;
  }
  const int64_t dense = model.layers - model.moe_layers();
  config["first_k_dense_replace"] = dense;
  MoeConfig moe = model.moe;
  if (dense == model.layers) {  // read, and not used
    moe = MoeConfig();
    moe.shared_width = moe.expert_width;
  }
  const RouterConfig& router = moe.router;
  const int64_t inner = moe.expert_groups()[0].width;
  for (const char* key : {"num_local_experts", "num_experts"}) config.erase(key);
  config["n_routed_experts"] = moe.experts;
  config["num_experts_per_tok"] = moe.choices;
  config["moe_intermediate_size"] = inner;
  config["n_shared_experts"] = moe.shared_width / inner;
  config["norm_topk_prob"] = router.renormalize;
  config["routed_scaling_factor"] = router.route_scale;
  config["n_group"] = router.groups;
  config["topk_group"] = router.groups > 1 ? router.group_choices : 1;
  config["scoring_func"] = second ? "softmax" : "sigmoid";
  config["topk_method"] = !second ? "noaux_tc" : router.groups > 1 ? "group_limited_greedy" : "greedy";
  config["moe_layer_freq"] = 1;
}

}  // namespace

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
  config["head_dim"] = model.rotary_width();  // of DeepSeek what positions turn
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = model.norm_epsilon;
  config["tie_word_embeddings"] = model.tie_embeddings;
  config["torch_dtype"] = dtype;
  config["dtype"] = dtype;
  const bool is_qwen =
      family == HfFamily::kQwen2 || family == HfFamily::kQwen2Moe || family == HfFamily::kQwen3 || family == HfFamily::kQwen3Moe;
  const bool has_no_such_bias = family == HfFamily::kMixtral || family == HfFamily::kQwen2 || family == HfFamily::kQwen2Moe;
  if (!has_no_such_bias) config["attention_bias"] = false;
  if (family == HfFamily::kLlama) config["mlp_bias"] = false;
  if (is_qwen || family == HfFamily::kMixtral) {
    if (!config.contains("sliding_window")) config["sliding_window"] = nullptr;
  }
  write_experts(family, model, config);
  if (traits.has_latent) write_deepseek(family, model, config);
  // Positions beyond what the run trained with are the origin's business.
  if (const auto positions = config.find("max_position_embeddings");
      !positions->is_number_integer() || positions->get<int64_t>() < model.sequence_length) {
    config["max_position_embeddings"] = model.sequence_length;
  }
  write_rotary(model, config);
  return config;
}

}  // namespace pimoe
