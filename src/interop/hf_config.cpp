/// config.json of Hugging Face transformers, read key by key: what our model does not compute is refused by its name.

#include "base/errors.h"
#include "base/text.h"
#include "interop/hf_config_reader.h"
#include "interop/hf_family.h"
#include "interop/hf_rotary.h"

#include <optional>
#include <set>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

/// DeepSeek publishes its models with the code that transformers has taken over since.
bool is_code_of_deepseek(const Json& code) {
  if (!code.is_object()) return false;
  for (const Json& name : code) {
    if (!name.is_string()) return false;
    const auto text = name.get<std::string>();
    if (!text.starts_with("configuration_deepseek.Deepseek") && !text.starts_with("modeling_deepseek.Deepseek")) return false;
  }
  return true;
}

const HfFamilyTraits& family_named_by(HfConfigReader& config) {
  const std::string type = config.word("model_type");
  std::vector<std::string> known;
  const HfFamilyTraits* found = nullptr;
  for (const HfFamily family : kHfFamilies) {
    known.emplace_back(traits_of(family).model_type);
    if (type == known.back()) found = &traits_of(family);
  }
  const std::string list = join(known, ", ");
  if (found == nullptr) config.refuse("model_type", concat("is not among the families that PiMoE reads: ", list));
  const Json* architectures = config.look("architectures");
  if (architectures != nullptr && *architectures != Json::array({found->architecture})) {
    config.refuse("architectures", concat("must be [\"", found->architecture, "\"]: language models alone are read"));
  }
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (config.look(key) != nullptr) config.refuse(key, "says that the weights are quantized; save them in bfloat16 or float32 first");
  }
  if (const Json* code = config.look("auto_map"); code != nullptr && !(found->has_latent && is_code_of_deepseek(*code))) {
    config.refuse("auto_map", "says that the model has code of its own, which PiMoE does not know");
  }
  return *found;
}

/// Attention to the last `window` positions alone is attention to all in sequences that are no longer.
void require_whole_attention(HfConfigReader& config, HfFamily family, int64_t sequence_length) {
  const bool used = family == HfFamily::kMixtral || config.flag("use_sliding_window", false);
  const Json* types = config.look("layer_types");
  bool sliding = used;
  if (types != nullptr) {
    if (!types->is_array()) config.refuse("layer_types", "must be a list");
    for (const Json& type : *types) {
      if (type == "full_attention") continue;
      if (type != "sliding_attention") config.refuse("layer_types", "has layers that PiMoE has not: full_attention is what it has");
      sliding = true;
    }
  }
  config.look("sliding_window");
  if (!sliding) return;
  const std::optional<int64_t> window = config.maybe_integer("sliding_window", 1, INT64_MAX);
  if (!window || *window >= sequence_length) return;
  config.refuse("sliding_window", concat("attends to the last positions alone, which PiMoE has not, and sequences have ", sequence_length,
                                         ": with --sequence-length ", *window, " or less both are the same"));
}

/// @returns the layers, from the first on, that have no experts. @throws DataError where others have none
int64_t dense_layers_of(HfConfigReader& config, int64_t layers) {
  std::set<int64_t> without;
  const int64_t step = config.maybe_integer("decoder_sparse_step", 1, 1'000'000).value_or(1);
  for (int64_t layer = 0; layer < layers; ++layer) {
    if ((layer + 1) % step != 0) without.insert(layer);
  }
  if (const Json* listed = config.look("mlp_only_layers"); listed != nullptr) {
    if (!listed->is_array()) config.refuse("mlp_only_layers", "must be a list of layers");
    for (const Json& layer : *listed) {
      if (!layer.is_number_integer()) config.refuse("mlp_only_layers", "must be a list of layers");
      if (const auto number = layer.get<int64_t>(); number >= 0 && number < layers) without.insert(number);
    }
  }
  const auto count = static_cast<int64_t>(without.size());
  if (count > 0 && *without.rbegin() != count - 1) {
    config.refuse(step > 1 ? "decoder_sparse_step" : "mlp_only_layers",
                  "has layers without experts behind layers with experts; PiMoE has them in front alone");
  }
  return count;
}

/// @param inner  intermediate_size
void read_experts(HfConfigReader& config, HfFamily family, int64_t inner, ModelConfig& model) {
  MoeConfig& moe = model.moe;
  if (family == HfFamily::kMixtral) {
    moe.experts = config.integer("num_local_experts", 1, 1023);
    moe.expert_width = inner;
  } else {
    const std::optional<int64_t> experts = config.maybe_integer("num_experts", 0, 1023);
    const std::optional<int64_t> also = config.maybe_integer("num_local_experts", 0, 1023);  // as transformers 5 spells it
    if (!experts && !also) config.refuse("num_experts", "must be given");
    if (experts && also && *experts != *also) config.refuse("num_experts", concat("is not what num_local_experts says (", *also, ")"));
    moe.experts = experts ? *experts : *also;
    moe.expert_width = family == HfFamily::kOlmoe ? inner : config.integer("moe_intermediate_size", 1, 1 << 24);
    if (family != HfFamily::kOlmoe) moe.first_dense_layers = dense_layers_of(config, model.layers);
  }
  if (moe.experts == 0) return;
  moe.choices = config.integer("num_experts_per_tok", 1, moe.experts);
  moe.router.renormalize = family == HfFamily::kMixtral || config.flag("norm_topk_prob", false);
  if (family != HfFamily::kQwen2Moe) return;
  moe.shared_width = config.integer("shared_expert_intermediate_size", 1, 1 << 24);
  moe.shared_gate = true;
}

/// A key of DeepSeek's own code, which has routers of other kinds too.
void require_word(HfConfigReader& config, const char* key, std::initializer_list<const char*> known) {
  const std::string word = config.word(key);
  if (word.empty()) return;
  std::vector<std::string> names;
  for (const char* name : known) {
    if (word == name) return;
    names.push_back(concat("'", name, "'"));
  }
  config.refuse(key, concat("must be ", join(names, " or "), " in this family"));
}

/// DeepSeek-V2's router: softmax, gates as they are, groups by their best expert.
void read_second_router(HfConfigReader& config, MoeConfig& moe) {
  RouterConfig& router = moe.router;
  require_word(config, "scoring_func", {"softmax"});
  require_word(config, "topk_method", {"greedy", "group_limited_greedy"});
  router.renormalize = false;
  if (config.flag("norm_topk_prob", false))
    config.refuse("norm_topk_prob", "divides gates by their sum, which transformers' DeepSeek-V2 does not");
  router.route_scale = config.positive("routed_scaling_factor", 1.0);
  const bool grouped = config.word("topk_method") == "group_limited_greedy";
  for (const char* key : {"n_group", "topk_group"}) config.look(key);  // say nothing where there is no limit
  if (!grouped) return;
  router.group_score = GroupScore::kMax;
  router.groups = config.integer("n_group", 1, 1023);
  if (moe.experts % router.groups != 0) config.refuse("n_group", concat("must divide n_routed_experts (", moe.experts, ")"));
  router.group_choices = config.integer("topk_group", 1, router.groups);
}

/// DeepSeek-V3's router: sigmoids, a bias for the choice alone, groups by their best two experts.
void read_third_router(HfConfigReader& config, MoeConfig& moe) {
  RouterConfig& router = moe.router;
  require_word(config, "scoring_func", {"sigmoid"});
  require_word(config, "topk_method", {"noaux_tc"});
  router.kind = RouterKind::kSigmoid;
  router.renormalize = config.flag("norm_topk_prob", true);
  router.route_scale = config.positive("routed_scaling_factor");
  router.groups = config.integer("n_group", 1, 1023);
  if (moe.experts % router.groups != 0 || moe.experts / router.groups < 2) {
    config.refuse("n_group", concat("must divide n_routed_experts (", moe.experts, ") into groups of at least 2"));
  }
  router.group_choices = config.integer("topk_group", 1, router.groups);
  router.group_top = router.groups > 1 ? 2 : 0;
  // Its experts were balanced by the bias, which is taken over, and not by these.
  moe.balance = {.switch_loss = 0.0, .z_loss = 0.0};
}

void read_deepseek_experts(HfConfigReader& config, HfFamily family, ModelConfig& model) {
  MoeConfig& moe = model.moe;
  if (config.maybe_integer("moe_layer_freq", 1, INT64_MAX).value_or(1) != 1) {
    config.refuse("moe_layer_freq", "has layers without experts behind layers with experts; PiMoE has them in front alone");
  }
  moe.experts = config.integer("n_routed_experts", 2, 1023);
  for (const char* key : {"num_local_experts", "num_experts"}) {
    if (const auto also = config.maybe_integer(key, 2, 1023); also && *also != moe.experts) {
      config.refuse(key, concat("is not what n_routed_experts says (", moe.experts, ")"));
    }
  }
  moe.choices = config.integer("num_experts_per_tok", 1, moe.experts);
  moe.expert_width = config.integer("moe_intermediate_size", 1, 1 << 24);
  moe.shared_width = config.integer("n_shared_experts", 1, 1023) * moe.expert_width;
  if (moe.shared_width > 1 << 24) config.refuse("n_shared_experts", "makes shared experts wider than PiMoE has");
  moe.first_dense_layers = config.integer("first_k_dense_replace", 0, INT64_MAX);
  if (family == HfFamily::kDeepseekV2) {
    read_second_router(config, moe);
    if (!model.latent.interleaved) config.refuse("rope_interleave", "must be true: DeepSeek-V2's positions turn neighbours");
  } else {
    read_third_router(config, moe);
  }
  if (moe.choices > moe.router.group_choices * (moe.experts / moe.router.groups)) {
    config.refuse("num_experts_per_tok", "is more than the experts of topk_group groups");
  }
  if (moe.first_dense_layers >= model.layers) {
    moe = MoeConfig();
    moe.experts = 0;
  }
}

void read_latent(HfConfigReader& config, ModelConfig& model) {
  LatentConfig& latent = model.latent;
  latent.kv_rank = config.integer("kv_lora_rank", 1, 1 << 20);
  latent.query_rank = config.maybe_integer("q_lora_rank", 1, 1 << 20).value_or(0);
  latent.plain_width = config.integer("qk_nope_head_dim", 1, 1 << 16);
  latent.rotary_width = config.integer("qk_rope_head_dim", 2, 1 << 16);
  latent.value_width = config.integer("v_head_dim", 1, 1 << 16);
  latent.interleaved = config.flag("rope_interleave", true);
  if (latent.rotary_width % 2 != 0) config.refuse("qk_rope_head_dim", "must be even: rotary positions turn pairs");
  if (const auto width = config.maybe_integer("head_dim", 1, 1 << 16); width && *width != latent.rotary_width) {
    config.refuse("head_dim", concat("must be qk_rope_head_dim (", latent.rotary_width, ")"));
  }
  if (const auto width = config.maybe_integer("qk_head_dim", 1, 1 << 17); width && *width != model.key_width()) {
    config.refuse("qk_head_dim", concat("must be qk_nope_head_dim + qk_rope_head_dim (", model.key_width(), ")"));
  }
  if (model.kv_heads != model.heads) {
    config.refuse("num_key_value_heads", concat("must be num_attention_heads (", model.heads, "): every head has keys of its own"));
  }
}

void read_head_width(HfConfigReader& config, HfFamily family, ModelConfig& model) {
  if (const auto head_width = config.maybe_integer("head_dim", 2, 1 << 16)) {
    model.head_width = *head_width;
  } else if (family == HfFamily::kQwen3) {
    model.head_width = 128;  // its class' default
  } else if (model.width % model.heads == 0) {
    model.head_width = model.width / model.heads;
  } else {
    config.refuse("head_dim",
                  concat("must be given: hidden_size (", model.width, ") is not divisible by num_attention_heads (", model.heads, ")"));
  }
  if (model.head_width % 2 != 0) config.refuse("head_dim", "must be even: rotary positions turn pairs");
}

}  // namespace

HfModel model_of_config(const Json& json, const std::string& name, int64_t sequence_length) {
  HfConfigReader config(json, name);
  const HfFamilyTraits& traits = family_named_by(config);
  HfModel read{.family = traits.family, .model = {}, .remarks = {}};
  ModelConfig& model = read.model;
  model.layers = config.integer("num_hidden_layers", 1, 10'000);
  model.width = config.integer("hidden_size", 1, 1 << 20);
  model.heads = config.integer("num_attention_heads", 1, 1 << 16);
  model.kv_heads = config.maybe_integer("num_key_value_heads", 1, 1 << 16).value_or(model.heads);
  model.vocabulary = config.integer("vocab_size", 1, 1 << 24);
  const int64_t inner = config.integer("intermediate_size", 1, 1 << 24);
  if (traits.has_latent) {
    read_latent(config, model);
  } else {
    read_head_width(config, traits.family, model);
  }
  if (model.heads % model.kv_heads != 0)
    config.refuse("num_key_value_heads", concat("must divide num_attention_heads (", model.heads, ")"));
  const int64_t positions = config.integer("max_position_embeddings", 1, 1 << 24);
  if (sequence_length > positions) {
    config.refuse("max_position_embeddings", concat("is less than --sequence-length (", sequence_length, ")"));
  }
  model.sequence_length = sequence_length > 0 ? sequence_length : positions;
  model.norm_epsilon = config.positive("rms_norm_eps");
  if (model.norm_epsilon > 1) config.refuse("rms_norm_eps", "must be at most 1");
  // The first Llamas' config.json does not say it.
  read_rotary(config, positions, traits.family == HfFamily::kLlama ? std::optional(10000.0) : std::nullopt, model);
  model.tie_embeddings = config.flag("tie_word_embeddings", false);
  model.qk_norm = traits.has_qk_norm;
  model.qkv_bias = traits.family == HfFamily::kQwen2 || (traits.family == HfFamily::kQwen2Moe && config.flag("qkv_bias", true));
  if (traits.family == HfFamily::kOlmoe) model.qk_norm_over = QkNormOver::kProjection;
  const double deviation = config.maybe_number("initializer_range").value_or(model.initial_deviation);
  if (deviation <= 1) model.initial_deviation = deviation;

  if (const std::string activation = config.word("hidden_act"); activation != "silu" && activation != "swish") {
    config.refuse("hidden_act", "is not SwiGLU's silu, which is what PiMoE's layers have");
  }
  if (config.flag("attention_bias", false)) config.refuse("attention_bias", "adds biases in attention, which PiMoE has not");
  if (config.flag("mlp_bias", false)) config.refuse("mlp_bias", "adds biases in feed-forward layers, which PiMoE has not");
  if (config.look("clip_qkv") != nullptr) config.refuse("clip_qkv", "clips queries, keys and values, which PiMoE does not");
  require_whole_attention(config, traits.family, model.sequence_length);
  model.moe.experts = 0;
  if (traits.has_latent) {
    read_deepseek_experts(config, traits.family, model);
  } else if (traits.has_experts) {
    read_experts(config, traits.family, inner, model);
  }
  if (model.moe_layers() < model.layers) model.feed_forward_width = inner;

  read.predictors = traits.has_latent ? config.maybe_integer("num_nextn_predict_layers", 0, 1000).value_or(0) : 0;
  for (const char* key : {"attention_dropout", "router_jitter_noise"}) {
    if (config.maybe_number(key).value_or(0.0) == 0.0) continue;
    read.remarks.push_back(concat(key, " is for training with transformers: it changes no result, and is not taken over"));
  }
  Violations violations;
  model.validate(violations);
  if (!violations.empty()) {
    const auto& [key, rule] = violations.lines().front();
    throw DataError(concat(name, ": describes a model that PiMoE cannot build: ", key, " ", rule));
  }
  if (const std::vector<std::string> unknown = config.unseen(); !unknown.empty()) {
    read.remarks.push_back(concat("config.json has keys that say nothing to PiMoE: ", join(unknown, ", ")));
  }
  return read;
}

}  // namespace pimoe
