#include "base/errors.h"
#include "base/text.h"
#include "interop/hf_family.h"
#include "interop/hf_fixture.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

ModelConfig model_of(const HfJson& config, int64_t sequence_length = 0) {
  return model_of_config(config, "config.json", sequence_length).model;
}

/// @returns what reading a config.json with another value says; a null value takes the key away
std::string refusal_with(HfJson config, const std::string& key, const HfJson& value, int64_t sequence_length = 0) {
  if (value.is_null()) {
    config.erase(key);
  } else {
    config[key] = value;
  }
  try {
    model_of(config, sequence_length);
    return "";
  } catch (const DataError& error) {
    return error.what();
  }
}

TEST(HfConfig, EachFamilyBecomesItsModel) {
  const ModelConfig mixtral = model_of(tiny_config(HfFamily::kMixtral));
  EXPECT_EQ(mixtral.moe.experts, 4);
  EXPECT_EQ(mixtral.moe.expert_width, 12);
  EXPECT_TRUE(mixtral.moe.router.renormalize);
  EXPECT_FALSE(mixtral.qk_norm);
  EXPECT_EQ(mixtral.sequence_length, 16);
  EXPECT_EQ(mixtral.kv_heads, 1);
  HfJson config = tiny_config(HfFamily::kQwen3Moe);
  const ModelConfig qwen = model_of(config);
  EXPECT_EQ(qwen.moe.expert_width, 6);
  EXPECT_TRUE(qwen.qk_norm);
  EXPECT_TRUE(qwen.moe.router.renormalize);
  config.erase("norm_topk_prob");
  EXPECT_FALSE(model_of(config).moe.router.renormalize);
  EXPECT_EQ(model_of(tiny_config(HfFamily::kLlama)).moe.experts, 0);
  EXPECT_EQ(model_of(tiny_config(HfFamily::kLlama)).feed_forward_width, 12);
  EXPECT_TRUE(model_of(tiny_config(HfFamily::kQwen3)).norms_heads());
  EXPECT_TRUE(model_of(tiny_config(HfFamily::kOlmoe)).norms_projections());
  EXPECT_EQ(model_of(tiny_config(HfFamily::kOlmoe)).moe.expert_width, 12);
  EXPECT_EQ(model_of(config, 8).sequence_length, 8);
  EXPECT_TRUE(model_of(tiny_config(HfFamily::kQwen2)).qkv_bias);
  HfJson qwen2 = tiny_config(HfFamily::kQwen2Moe);
  EXPECT_TRUE(model_of(qwen2).qkv_bias);
  EXPECT_TRUE(model_of(qwen2).moe.shared_gate);
  EXPECT_EQ(model_of(qwen2).moe.shared_width, 10);
  EXPECT_FALSE(model_of(qwen2).moe.router.renormalize);
  qwen2["qkv_bias"] = false;
  EXPECT_FALSE(model_of(qwen2).qkv_bias);
}

TEST(HfConfig, DeepseekBecomesLatentAttentionAndARouterOfGroups) {
  HfJson config = tiny_config(HfFamily::kDeepseekV3);
  config["num_nextn_predict_layers"] = 1;
  const HfModel hf = model_of_config(config, "config.json", 0);
  EXPECT_EQ(hf.predictors, 1);
  const ModelConfig& model = hf.model;
  EXPECT_EQ(model.latent.kv_rank, 4);
  EXPECT_EQ(model.latent.query_rank, 6);
  EXPECT_EQ(model.key_width(), 5);
  EXPECT_EQ(model.value_width(), 4);
  EXPECT_EQ(model.rotary_width(), 2);
  EXPECT_TRUE(model.latent.interleaved);
  EXPECT_EQ(model.moe.router.kind, RouterKind::kSigmoid);
  EXPECT_EQ(model.moe.router.groups, 2);
  EXPECT_EQ(model.moe.router.group_choices, 1);
  EXPECT_EQ(model.moe.router.group_top, 2);
  EXPECT_EQ(model.moe.router.route_scale, 2.5);
  EXPECT_EQ(model.moe.shared_width, 12);
  EXPECT_EQ(model.moe.first_dense_layers, 1);
  config["q_lora_rank"] = nullptr;
  config["first_k_dense_replace"] = 2;
  EXPECT_EQ(model_of(config).latent.query_rank, 0);
  EXPECT_EQ(model_of(config).moe.experts, 0);
  EXPECT_EQ(model_of(config_of_model(model_of(config), HfJson::object(), "float32")).moe.experts, 0);
}

// The keys of deepseek-ai's DeepSeek-V3 and DeepSeek-V2-Lite, but for the former's quantization.
TEST(HfConfig, ReadsTheKeysThatDeepseekPublishes) {
  HfJson third = tiny_config(HfFamily::kDeepseekV3);
  third.update(
      {{"auto_map", {{"AutoConfig", "configuration_deepseek.DeepseekV3Config"}, {"AutoModel", "modeling_deepseek.DeepseekV3Model"}}},
       {"attention_bias", false},
       {"attention_dropout", 0.0},
       {"aux_loss_alpha", 0.001},
       {"ep_size", 1},
       {"moe_layer_freq", 1},
       {"num_nextn_predict_layers", 1},
       {"pretraining_tp", 1},
       {"scoring_func", "sigmoid"},
       {"seq_aux", true},
       {"topk_method", "noaux_tc"},
       {"use_cache", true}});
  third["rope_scaling"] = {{"beta_fast", 32}, {"beta_slow", 1},        {"factor", 40},
                           {"mscale", 1.0},   {"mscale_all_dim", 1.0}, {"original_max_position_embeddings", 4096},
                           {"type", "yarn"}};
  const HfModel read = model_of_config(third, "config.json", 0);
  EXPECT_TRUE(read.remarks.empty());
  EXPECT_EQ(read.model.rotary.mscale_all_dim, 1.0);
  EXPECT_EQ(read.model.rotary.factor, 40.0);
  EXPECT_NE(refusal_with(third, "auto_map", {{"AutoModel", "modeling_mine.DeepseekV3Model"}}).find("code of its own"), std::string::npos);

  HfJson lite = tiny_config(HfFamily::kDeepseekV2);
  lite.update({{"auto_map", {{"AutoModelForCausalLM", "modeling_deepseek.DeepseekV2ForCausalLM"}}},
               {"q_lora_rank", nullptr},
               {"n_group", 1},
               {"topk_group", 1},
               {"topk_method", "greedy"},
               {"scoring_func", "softmax"},
               {"routed_scaling_factor", 1.0},
               {"aux_loss_alpha", 0.001},
               {"seq_aux", true},
               {"moe_layer_freq", 1}});
  EXPECT_TRUE(model_of_config(lite, "config.json", 0).remarks.empty());
  EXPECT_EQ(model_of(lite).moe.router.groups, 1);
  EXPECT_FALSE(model_of(lite).moe.router.renormalize);
}

TEST(HfConfig, ReadsRotaryScalingInBothSpellingsAndWritesBoth) {
  const HfJson yarn = {{"factor", 4.0}, {"original_max_position_embeddings", 4}, {"beta_fast", 0}, {"mscale", 0.5}};
  const HfJson llama3 = {{"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8}};
  for (const auto& [type, keys] :
       {std::pair<const char*, HfJson>{"linear", {{"factor", 2.0}}}, {"dynamic", {{"factor", 2.0}}}, {"yarn", yarn}, {"llama3", llama3}}) {
    HfJson old = tiny_config(HfFamily::kLlama), now = old;
    old["rope_scaling"] = keys;
    old["rope_scaling"]["type"] = type;
    now.erase("rope_theta");
    now["rope_parameters"] = keys;
    now["rope_parameters"].update({{"rope_type", type}, {"rope_theta", 10000.0}});
    const ModelConfig model = model_of(old);
    EXPECT_NE(model.rotary, RotaryConfig()) << type;
    EXPECT_EQ(model_of(now).rotary, model.rotary) << type;
    const HfJson written = config_of_model(model, HfJson::object(), "float32");
    EXPECT_EQ(written["rope_scaling"]["rope_type"], type);
    EXPECT_EQ(model_of(written).rotary, model.rotary) << type;
    HfJson other = old;
    other["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 3.0}};
    EXPECT_NE(refusal_with(other, "x", nullptr).find("is not what rope_scaling says"), std::string::npos) << type;
  }
  HfJson beside = tiny_config(HfFamily::kLlama);
  beside["rope_scaling"] = llama3;
  beside["rope_scaling"]["rope_type"] = "llama3";
  beside["original_max_position_embeddings"] = 12;
  EXPECT_EQ(model_of(beside).rotary.original_length, 12) << "which counts where both are there";
}

TEST(HfConfig, ReadsBothSpellingsOfWhatTransformersRenamed) {
  HfJson config = tiny_config(HfFamily::kQwen3Moe);
  config["rope_theta"] = 5e6;
  EXPECT_EQ(model_of(config).rope_theta, 5e6);
  config.erase("rope_theta");
  EXPECT_NE(refusal_with(config, "rope_theta", nullptr).find("rope_theta (missing)"), std::string::npos);
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  EXPECT_EQ(model_of(config).rope_theta, 1e6);
  config["rope_theta"] = 1e6;
  EXPECT_EQ(model_of(config).rope_theta, 1e6);
  EXPECT_NE(refusal_with(config, "rope_theta", 5e6).find("is not what rope_parameters.rope_theta says"), std::string::npos);
  config.erase("num_experts");
  config["num_local_experts"] = 4;
  EXPECT_EQ(model_of(config).moe.experts, 4);
  EXPECT_NE(refusal_with(config, "num_experts", 5).find("num_experts (5) is not what num_local_experts says (4)"), std::string::npos);
  HfJson llama = tiny_config(HfFamily::kLlama);
  llama.erase("rope_theta");
  llama.erase("num_key_value_heads");
  llama["head_dim"] = nullptr;
  EXPECT_EQ(model_of(llama).rope_theta, 10000.0);
  EXPECT_EQ(model_of(llama).kv_heads, 2);
  EXPECT_EQ(model_of(llama).head_size(), 4);
}

TEST(HfConfig, RefusesByKeyValueAndFeatureWhatTheModelDoesNotCompute) {
  struct Case {
    HfFamily family;
    std::string key;
    HfJson value;
    std::string says;
  };
  const HfFamily llama = HfFamily::kLlama;
  const HfFamily qwen = HfFamily::kQwen3Moe;
  const HfFamily deepseek = HfFamily::kDeepseekV3;
  const HfFamily second = HfFamily::kDeepseekV2;
  const std::vector<Case> cases = {
      {llama, "model_type", "gpt2",
       "is not among the families that PiMoE reads: llama, qwen2, qwen3, mixtral, qwen2_moe, qwen3_moe, olmoe, deepseek_v2, deepseek_v3"},
      {HfFamily::kOlmoe, "clip_qkv", 8.0, "clips queries"},
      {llama, "model_type", nullptr, "model_type (missing)"},
      {llama, "architectures", {"LlamaForSequenceClassification"}, "language models alone"},
      {llama, "quantization_config", {{"bits", 4}}, "quantized"},
      {llama, "auto_map", {{"AutoModel", "x.Y"}}, "code of its own"},
      {llama, "rope_scaling", {{"rope_type", "longrope"}, {"factor", 8.0}}, "rope_scaling.rope_type (\"longrope\") is a scaling"},
      {llama, "rope_scaling", {{"type", "su"}, {"factor", 2.0}}, "it has default, linear, dynamic, yarn, llama3"},
      {llama, "rope_scaling", {{"type", "linear"}, {"rope_type", "yarn"}}, "rope_scaling.type (\"linear\") is not what rope_type says"},
      {llama, "rope_scaling", {{"type", "linear"}}, "rope_scaling.factor (missing) must be a number above 0"},
      {llama, "rope_scaling", {{"type", "linear"}, {"factor", 0.5}}, "rope_scaling.factor (0.5) must be at least 1"},
      {llama, "rope_scaling", {{"type", "linear"}, {"factor", 2.0}, {"mscale", 1.0}}, "positions of type linear have"},
      {llama, "rope_scaling", {{"type", "yarn"}, {"factor", 2.0}, {"beta_fast", 1}, {"beta_slow", 2}}, "at least beta_slow (2)"},
      {llama,
       "rope_scaling",
       {{"type", "yarn"}, {"factor", 2.0}, {"attention_factor", 0}},
       "attention_factor (0) must be a number above 0"},
      {llama, "rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}, "rope_scaling.low_freq_factor (missing)"},
      {llama,
       "rope_scaling",
       {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 4}, {"high_freq_factor", 4}},
       "high_freq_factor (4) must be above low_freq_factor (4)"},
      {llama, "rope_parameters", {{"rope_type", "default"}, {"factor", 4.0}}, "rope_parameters.factor (4.0)"},
      {llama, "rope_parameters", 3, "must be an object"},
      {llama, "partial_rotary_factor", 0.5, "a part of a head alone"},
      {llama, "rope_theta", -1, "not below 0"},
      {llama, "attention_bias", true, "attention_bias (true) adds biases in attention"},
      {llama, "mlp_bias", true, "adds biases in feed-forward layers"},
      {llama, "hidden_act", "gelu", "hidden_act (\"gelu\") is not SwiGLU's silu"},
      {llama, "hidden_act", nullptr, "hidden_act (missing)"},
      {llama, "clip_qkv", 8.0, "clips queries"},
      {llama, "hidden_size", "8", "must be a whole number from 1 to"},
      {llama, "hidden_size", 8.5, "must be a whole number"},
      {llama, "hidden_size", 18446744073709551615ULL, "must be a whole number"},
      {llama, "num_hidden_layers", 10'001, "must be a whole number from 1 to 10000"},
      {llama, "num_key_value_heads", 3, "must divide num_attention_heads (2)"},
      {llama, "head_dim", 5, "must be even"},
      {llama, "rms_norm_eps", 0, "must be a number above 0"},
      {llama, "rope_theta", 1e31, "at most 1e30"},
      {llama, "tie_word_embeddings", "yes", "must be true or false"},
      {HfFamily::kMixtral, "sliding_window", 8, "with --sequence-length 8 or less both are the same"},
      {HfFamily::kMixtral, "num_experts_per_tok", 5, "from 1 to 4"},
      {HfFamily::kQwen3, "layer_types", {"full_attention", "linear_attention"}, "layers that PiMoE has not"},
      {qwen, "mlp_only_layers", {1}, "has layers without experts behind layers with experts"},
      {qwen, "mlp_only_layers", {"0"}, "must be a list of layers"},
      {qwen, "num_experts", nullptr, "num_experts (missing)"},
      {qwen, "num_experts", 4096, "from 0 to 1023"},
      {HfFamily::kQwen2Moe, "shared_expert_intermediate_size", nullptr, "shared_expert_intermediate_size (missing)"},
      {HfFamily::kQwen2, "use_sliding_window", "yes", "must be true or false"},
      {deepseek, "kv_lora_rank", nullptr, "kv_lora_rank (missing)"},
      {deepseek, "qk_rope_head_dim", 3, "qk_rope_head_dim (3) must be even"},
      {deepseek, "head_dim", 4, "head_dim (4) must be qk_rope_head_dim (2)"},
      {deepseek, "qk_head_dim", 4, "qk_head_dim (4) must be qk_nope_head_dim + qk_rope_head_dim (5)"},
      {deepseek, "num_key_value_heads", 1, "num_key_value_heads (1) must be num_attention_heads (2)"},
      {deepseek, "attention_bias", true, "adds biases in attention"},
      {deepseek, "scoring_func", "softmax", "scoring_func (\"softmax\") must be 'sigmoid'"},
      {deepseek, "topk_method", "greedy", "topk_method (\"greedy\") must be 'noaux_tc'"},
      {second, "topk_method", "noaux_tc", "topk_method (\"noaux_tc\") must be 'greedy' or 'group_limited_greedy'"},
      {second, "norm_topk_prob", true, "norm_topk_prob (true) divides gates"},
      {second, "rope_interleave", false, "rope_interleave (false) must be true"},
      {second, "n_group", 3, "n_group (3) must divide n_routed_experts (4)"},
      {deepseek, "moe_layer_freq", 2, "moe_layer_freq (2)"},
      {deepseek, "n_group", 3, "n_group (3) must divide n_routed_experts (4) into groups of at least 2"},
      {deepseek, "n_group", 4, "n_group (4) must divide n_routed_experts (4) into groups of at least 2"},
      {deepseek, "topk_group", 3, "topk_group (3) must be a whole number from 1 to 2"},
      {deepseek, "num_experts_per_tok", 3, "is more than the experts of topk_group groups"},
      {deepseek, "n_shared_experts", 0, "n_shared_experts (0)"},
      {deepseek, "quantization_config", {{"quant_method", "fp8"}}, "quantized"},
  };
  for (const Case& each : cases) {
    const std::string said = refusal_with(tiny_config(each.family), each.key, each.value);
    EXPECT_NE(said.find(each.says), std::string::npos) << each.key << " " << each.value << "\n  says: " << said;
  }
}

TEST(HfConfig, AWindowThatIsAsWideAsTheSequencesIsNone) {
  HfJson config = tiny_config(HfFamily::kMixtral);
  config["sliding_window"] = 8;
  EXPECT_EQ(model_of(config, 8).sequence_length, 8);
  HfJson qwen = tiny_config(HfFamily::kQwen3);
  qwen["sliding_window"] = 8;
  qwen["use_sliding_window"] = false;
  EXPECT_EQ(model_of(qwen).sequence_length, 16);
  EXPECT_NE(refusal_with(qwen, "use_sliding_window", true).find("sliding_window (8)"), std::string::npos);
  EXPECT_NE(refusal_with(qwen, "max_position_embeddings", 4, 5).find("is less than --sequence-length (5)"), std::string::npos);
}

TEST(HfConfig, DenseLayersMayComeFirst) {
  HfJson config = tiny_config(HfFamily::kQwen3Moe);
  config["num_hidden_layers"] = 3;
  config["mlp_only_layers"] = {0, 1, 99};
  EXPECT_EQ(model_of(config).moe.first_dense_layers, 2);
  EXPECT_EQ(model_of(config).feed_forward_width, 12);
  config["mlp_only_layers"] = HfJson::array();
  config["num_hidden_layers"] = 2;
  config["decoder_sparse_step"] = 2;  // layer 1 has experts
  EXPECT_EQ(model_of(config).moe.first_dense_layers, 1);
  EXPECT_NE(refusal_with(config, "num_hidden_layers", 3).find("decoder_sparse_step (2)"), std::string::npos);
}

TEST(HfConfig, WhatHasNoMeaningIsSaid) {
  HfJson config = tiny_config(HfFamily::kMixtral);
  EXPECT_TRUE(model_of_config(config, "config.json", 0).remarks.empty());
  config["router_jitter_noise"] = 0.1;
  config["attention_dropout"] = 0.0;
  config["novelty"] = 3;
  const auto remarks = model_of_config(config, "config.json", 0).remarks;
  ASSERT_EQ(remarks.size(), 2u);
  EXPECT_EQ(remarks[0].find("router_jitter_noise"), 0u);
  EXPECT_NE(remarks[1].find("novelty"), std::string::npos);
}

TEST(HfConfig, WhatIsWrittenIsReadAsTheSameModel) {
  for (const HfFamily family : kHfFamilies) {
    const ModelConfig model = model_of(tiny_config(family));
    EXPECT_EQ(family_of(model), family);
    for (const HfJson& carried : {HfJson::object(), tiny_config(family)}) {
      const HfJson written = config_of_model(model, carried, "bfloat16");
      const HfModel read = model_of_config(written, "config.json", 0);
      EXPECT_EQ(config_of_model(read.model, carried, "bfloat16"), written);
      EXPECT_TRUE(read.remarks.empty());
      EXPECT_EQ(written["rope_theta"], 10000.0);
      EXPECT_EQ(written["rope_parameters"]["rope_theta"], 10000.0);
      EXPECT_EQ(written["torch_dtype"], "bfloat16");
      EXPECT_EQ(written["dtype"], "bfloat16");
      EXPECT_EQ(written["eos_token_id"], carried.empty() ? HfJson() : HfJson(2));
    }
  }
  ModelConfig shorter = model_of(tiny_config(HfFamily::kLlama), 8);
  EXPECT_EQ(config_of_model(shorter, tiny_config(HfFamily::kLlama), "float32")["max_position_embeddings"], 16);
  EXPECT_EQ(config_of_model(shorter, HfJson::object(), "float32")["max_position_embeddings"], 8);
  EXPECT_THROW(config_of_model(shorter, tiny_config(HfFamily::kMixtral), "float32"), DataError);
}

TEST(HfConfig, NamesTheKeyOfOursThatNoFamilyHas) {
  const ModelConfig qwen = model_of(tiny_config(HfFamily::kQwen3Moe));
  const ModelConfig mixtral = model_of(tiny_config(HfFamily::kMixtral));
  const auto refusal = [](ModelConfig model, const auto& change) {
    change(model);
    try {
      family_of(model);
      return std::string();
    } catch (const DataError& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(refusal(qwen, [](ModelConfig& model) { model.moe.router.kind = RouterKind::kSigmoid; })
                .find("model.moe.router.kind (sigmoid) cannot be exported"),
            0u);
  const ModelConfig deepseek = model_of(tiny_config(HfFamily::kDeepseekV3));
  EXPECT_EQ(refusal(deepseek, [](ModelConfig& model) { model.moe.router.kind = RouterKind::kHash; }).find("model.moe.router.kind (hash)"),
            0u);
  EXPECT_EQ(refusal(deepseek, [](ModelConfig& model) { model.moe.shared_width = 0; }).find("model.moe.shared_width (0)"), 0u);
  EXPECT_EQ(refusal(deepseek, [](ModelConfig& model) { model.moe.shared_width = 7; }).find("model.moe.shared_width (7)"), 0u);
  EXPECT_EQ(refusal(deepseek, [](ModelConfig& model) { model.moe.shared_gate = true; }).find("model.moe.shared_gate (true)"), 0u);
  EXPECT_EQ(refusal(deepseek, [](ModelConfig& model) { model.moe.router.group_top = 1; }).find("model.moe.router.group_top (1)"), 0u);
  EXPECT_EQ(refusal(deepseek, [](ModelConfig& model) { model.latent.norm_epsilon = 1e-5; }).find("model.latent.norm_epsilon (1e-05)"), 0u);
  const ModelConfig second = model_of(tiny_config(HfFamily::kDeepseekV2));
  EXPECT_EQ(refusal(second, [](ModelConfig& model) { model.moe.router.renormalize = true; }).find("model.moe.router.renormalize (true)"),
            0u);
  EXPECT_EQ(refusal(second, [](ModelConfig& model) { model.moe.router.group_score = GroupScore::kSum; })
                .find("model.moe.router.group_score (sum)"),
            0u);
  EXPECT_EQ(refusal(second, [](ModelConfig& model) { model.latent.interleaved = false; }).find("model.latent.interleaved (false)"), 0u);
  const ModelConfig qwen2 = model_of(tiny_config(HfFamily::kQwen2Moe));
  EXPECT_EQ(refusal(qwen2, [](ModelConfig& model) { model.moe.shared_gate = false; }).find("model.moe.shared_width (10)"), 0u);
  EXPECT_EQ(refusal(qwen2, [](ModelConfig& model) { model.moe.shared_width = 0; }).find("model.qkv_bias (true)"), 0u);
  EXPECT_EQ(refusal(qwen2, [](ModelConfig& model) { model.qk_norm = true; }).find("model.moe.shared_width (10)"), 0u);
  EXPECT_EQ(refusal(qwen, [](ModelConfig& model) { model.moe.router.route_scale = 2.5; }).find("model.moe.router.route_scale (2.5)"), 0u);
  EXPECT_EQ(refusal(qwen, [](ModelConfig& model) { model.moe.router.groups = 2; }).find("model.moe.router.groups (2)"), 0u);
  EXPECT_EQ(refusal(qwen, [](ModelConfig& model) { model.moe.router.projection = 2; }).find("model.moe.router.projection (2)"), 0u);
  EXPECT_EQ(refusal(qwen, [](ModelConfig& model) { model.moe.router.linear_bias = true; }).find("model.moe.router.linear_bias"), 0u);
  EXPECT_EQ(refusal(qwen, [](ModelConfig& model) { model.moe.shared_width = 4; }).find("model.moe.shared_width (4)"), 0u);
  EXPECT_EQ(refusal(qwen, [](ModelConfig& model) { model.moe.fallback_width = 4; }).find("model.moe.fallback_width (4)"), 0u);
  EXPECT_EQ(refusal(qwen, [](ModelConfig& model) { model.moe.groups = {{.name = "a", .count = 4, .activation = Activation::kRelu}}; })
                .find("model.moe.groups ('a')"),
            0u);
  EXPECT_EQ(refusal(mixtral, [](ModelConfig& model) { model.moe.router.renormalize = false; }).find("model.moe.router.renormalize (false)"),
            0u);
  const ModelConfig olmoe = model_of(tiny_config(HfFamily::kOlmoe));
  EXPECT_EQ(refusal(olmoe, [](ModelConfig& model) { model.moe.experts = 0; }).find("model.qk_norm_over (projection)"), 0u);
  EXPECT_EQ(refusal(olmoe, [](ModelConfig& model) { model.moe.first_dense_layers = 1; }).find("model.moe.first_dense_layers (1)"), 0u);
  EXPECT_EQ(refusal(olmoe, [](ModelConfig& model) { model.head_width = 6; }).find("model.head_width (6)"), 0u);
  EXPECT_EQ(refusal(mixtral, [](ModelConfig& model) { model.moe.first_dense_layers = 1; }).find("model.moe.first_dense_layers (1)"), 0u);
  EXPECT_EQ(refusal(mixtral, [](ModelConfig& model) { model.moe.router.pre_softmax = false; }), "");
}

}  // namespace
}  // namespace pimoe
