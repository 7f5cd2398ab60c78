/// config.json of Hugging Face transformers, read key by key: what our model does not compute is refused by its name.

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "interop/hf_family.h"

#include <cmath>
#include <optional>
#include <set>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

/// Keys that say nothing of what a forward pass computes, or only in training.
const std::set<std::string> kWithoutMeaning = {"_name_or_path",
                                               "architectures",
                                               "bos_token_id",
                                               "chunk_size_feed_forward",
                                               "dtype",
                                               "eos_token_id",
                                               "initializer_range",
                                               "max_window_layers",
                                               "output_attentions",
                                               "output_hidden_states",
                                               "pad_token_id",
                                               "output_router_logits",
                                               "pretraining_tp",
                                               "return_dict",
                                               "router_aux_loss_coef",
                                               "torch_dtype",
                                               "transformers_version",
                                               "use_cache",
                                               "use_return_dict"};

/// One config.json, and which of its keys were looked at.
class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string name) : json_(json), name_(std::move(name)) {}

  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    const Json* value = find(key);
    throw DataError(concat(name_, ": ", key, value == nullptr ? " (missing) " : concat(" (", printable(value->dump()), ") "), why));
  }

  /// @param key  "rope_parameters.rope_type": of an object inside  @returns nothing where it is missing or null
  const Json* find(const std::string& key) const {
    const Json* at = &json_;
    for (const std::string& part : split(key, '.')) {
      if (!at->is_object() || !at->contains(part)) return nullptr;
      at = &(*at)[part];
    }
    return at->is_null() ? nullptr : at;
  }
  const Json* look(const std::string& key) {
    seen_.insert(split(key, '.')[0]);
    return find(key);
  }

  std::optional<int64_t> maybe_integer(const std::string& key, int64_t least, int64_t most) {
    const Json* value = look(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) ||
        value->get<int64_t>() < least || value->get<int64_t>() > most) {
      refuse(key, concat("must be a whole number from ", least, " to ", most));
    }
    return value->get<int64_t>();
  }
  int64_t integer(const std::string& key, int64_t least, int64_t most) {
    const std::optional<int64_t> value = maybe_integer(key, least, most);
    if (!value) refuse(key, concat("must be a whole number from ", least, " to ", most));
    return *value;
  }
  std::optional<double> maybe_number(const std::string& key) {
    const Json* value = look(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number() || !std::isfinite(value->get<double>()) || value->get<double>() < 0)
      refuse(key, "must be a number, not below 0");
    return value->get<double>();
  }
  double positive(const std::string& key, std::optional<double> fallback = std::nullopt) {
    const std::optional<double> value = maybe_number(key);
    if (!value && fallback) return *fallback;
    if (!value || *value <= 0) refuse(key, "must be a number above 0");
    return *value;
  }
  bool flag(const std::string& key, bool fallback) {
    const Json* value = look(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(key, "must be true or false");
    return value->get<bool>();
  }
  std::string word(const std::string& key) {
    const Json* value = look(key);
    if (value == nullptr) return "";
    if (!value->is_string()) refuse(key, "must be text");
    return value->get<std::string>();
  }

  std::vector<std::string> unseen() const {
    std::vector<std::string> keys;
    for (const auto& [key, value] : json_.items()) {
      if (!seen_.contains(key) && !kWithoutMeaning.contains(key) && !value.is_null()) keys.push_back(printable(key));
    }
    return keys;
  }

 private:
  const Json& json_;
  std::string name_;
  std::set<std::string> seen_;
};

const HfFamilyTraits& family_named_by(ConfigReader& config) {
  const std::string type = config.word("model_type");
  std::vector<std::string> known;
  const HfFamilyTraits* found = nullptr;
  for (const HfFamily family : kHfFamilies) {
    known.emplace_back(traits_of(family).model_type);
    if (type == known.back()) found = &traits_of(family);
  }
  const std::string list = join(known, ", ");
  if (type.starts_with("deepseek")) config.refuse("model_type", concat("has latent attention, which PiMoE has not; read are ", list));
  if (type == "qwen2_moe" || type == "qwen2") {
    config.refuse(
        "model_type",
        concat("has biases on queries, keys and values (qwen2_moe a gated shared expert too), which PiMoE has not; read are ", list));
  }
  if (found == nullptr) config.refuse("model_type", concat("is not among the families that PiMoE reads: ", list));
  const Json* architectures = config.look("architectures");
  if (architectures != nullptr && *architectures != Json::array({found->architecture})) {
    config.refuse("architectures", concat("must be [\"", found->architecture, "\"]: language models alone are read"));
  }
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (config.look(key) != nullptr) config.refuse(key, "says that the weights are quantized; save them in bfloat16 or float32 first");
  }
  if (config.look("auto_map") != nullptr) config.refuse("auto_map", "says that the model has code of its own, which PiMoE does not know");
  return *found;
}

/// The base of rotary positions, in either spelling, where they are the plain ones.
double rope_theta_of(ConfigReader& config, HfFamily family) {
  for (const std::string key : {"rope_scaling", "rope_parameters"}) {
    const Json* value = config.look(key);
    if (value == nullptr) continue;
    if (!value->is_object()) config.refuse(key, "must be an object");
    for (const char* part : {".rope_type", ".type"}) {
      if (const std::string type = config.word(key + part); !type.empty() && type != "default") {
        config.refuse(key + part, "is a scaling of rotary positions that PiMoE has not; 'default' is what it has");
      }
    }
    for (const auto& [part, each] : value->items()) {
      const bool known = part == "rope_type" || part == "type" || part == "rope_theta" || part == "partial_rotary_factor";
      if (!known && !each.is_null()) config.refuse(concat(key, ".", part), "is not among what PiMoE's rotary positions have");
    }
  }
  for (const char* key : {"partial_rotary_factor", "rope_parameters.partial_rotary_factor", "rope_scaling.partial_rotary_factor"}) {
    if (config.maybe_number(key).value_or(1.0) != 1.0) config.refuse(key, "turns a part of a head alone; PiMoE turns all of it");
  }
  std::optional<double> theta;
  for (const char* key : {"rope_parameters.rope_theta", "rope_scaling.rope_theta", "rope_theta"}) {
    const std::optional<double> given = config.maybe_number(key);
    if (!given) continue;
    if (*given <= 0 || *given > 1e30) config.refuse(key, "must be above 0, and at most 1e30");
    if (theta && *theta != *given) config.refuse(key, concat("is not what rope_parameters.rope_theta says (", *theta, ")"));
    theta = given;
  }
  if (!theta && family == HfFamily::kLlama) return 10000.0;  // the first Llamas' config.json does not say it
  if (!theta) config.refuse("rope_theta", "must be given, there or in rope_parameters");
  return *theta;
}

/// Attention to the last `window` positions alone is attention to all in sequences that are no longer.
void require_whole_attention(ConfigReader& config, HfFamily family, int64_t sequence_length) {
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
int64_t dense_layers_of(ConfigReader& config, int64_t layers) {
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
void read_experts(ConfigReader& config, HfFamily family, int64_t inner, ModelConfig& model) {
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
    if (family == HfFamily::kQwen3Moe) moe.first_dense_layers = dense_layers_of(config, model.layers);
  }
  if (moe.experts == 0) return;
  moe.choices = config.integer("num_experts_per_tok", 1, moe.experts);
  moe.router.renormalize = family == HfFamily::kMixtral || config.flag("norm_topk_prob", false);
}

}  // namespace

HfModel model_of_config(const Json& json, const std::string& name, int64_t sequence_length) {
  ConfigReader config(json, name);
  const HfFamilyTraits& traits = family_named_by(config);
  HfModel read{.family = traits.family, .model = {}, .remarks = {}};
  ModelConfig& model = read.model;
  model.layers = config.integer("num_hidden_layers", 1, 10'000);
  model.width = config.integer("hidden_size", 1, 1 << 20);
  model.heads = config.integer("num_attention_heads", 1, 1 << 16);
  model.kv_heads = config.maybe_integer("num_key_value_heads", 1, 1 << 16).value_or(model.heads);
  model.vocabulary = config.integer("vocab_size", 1, 1 << 24);
  const int64_t inner = config.integer("intermediate_size", 1, 1 << 24);
  if (const auto head_width = config.maybe_integer("head_dim", 2, 1 << 16)) {
    model.head_width = *head_width;
  } else if (traits.family == HfFamily::kQwen3) {
    model.head_width = 128;  // its class' default
  } else if (model.width % model.heads == 0) {
    model.head_width = model.width / model.heads;
  } else {
    config.refuse("head_dim",
                  concat("must be given: hidden_size (", model.width, ") is not divisible by num_attention_heads (", model.heads, ")"));
  }
  if (model.head_width % 2 != 0) config.refuse("head_dim", "must be even: rotary positions turn pairs");
  if (model.heads % model.kv_heads != 0)
    config.refuse("num_key_value_heads", concat("must divide num_attention_heads (", model.heads, ")"));
  const int64_t positions = config.integer("max_position_embeddings", 1, 1 << 24);
  if (sequence_length > positions) {
    config.refuse("max_position_embeddings", concat("is less than --sequence-length (", sequence_length, ")"));
  }
  model.sequence_length = sequence_length > 0 ? sequence_length : positions;
  model.norm_epsilon = config.positive("rms_norm_eps");
  if (model.norm_epsilon > 1) config.refuse("rms_norm_eps", "must be at most 1");
  model.rope_theta = rope_theta_of(config, traits.family);
  model.tie_embeddings = config.flag("tie_word_embeddings", false);
  model.qk_norm = traits.has_qk_norm;
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
  if (traits.has_experts) read_experts(config, traits.family, inner, model);
  if (model.moe_layers() < model.layers) model.feed_forward_width = inner;

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
