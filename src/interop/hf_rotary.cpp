#include "interop/hf_rotary.h"

#include "base/text.h"

#include <algorithm>
#include <array>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

/// A kind of scaling as config.json calls it, and the keys that it has beside rope_type and rope_theta.
struct Spelling {
  RotaryScaling scaling;
  const char* type;
  std::vector<std::string> keys;
};

const std::array<Spelling, 5>& spellings() {
  static const std::array<Spelling, 5> all = {{
      {RotaryScaling::kNone, "default", {}},
      {RotaryScaling::kLinear, "linear", {"factor"}},
      {RotaryScaling::kDynamic, "dynamic", {"factor"}},
      {RotaryScaling::kYarn,
       "yarn",
       {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "truncate"}},
      {RotaryScaling::kLlama3, "llama3", {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}},
  }};
  return all;
}

const Spelling& spelling_of(HfConfigReader& config, const std::string& object) {
  const std::string new_key = object + ".rope_type", old_key = object + ".type";
  const std::string type = config.word(new_key), old = config.word(old_key);
  if (!type.empty() && !old.empty() && type != old) config.refuse(old_key, concat("is not what rope_type says ('", type, "')"));
  const std::string named = type.empty() ? old : type;
  if (named.empty()) return spellings()[0];
  std::vector<std::string> known;
  for (const Spelling& each : spellings()) {
    if (named == each.type) return each;
    known.emplace_back(each.type);
  }
  config.refuse(type.empty() ? old_key : new_key,
                concat("is a scaling of rotary positions that PiMoE has not; it has ", join(known, ", ")));
}

RotaryConfig read_object(HfConfigReader& config, const std::string& object, const Json& value, int64_t positions) {
  const Spelling& spelling = spelling_of(config, object);
  for (const auto& [key, each] : value.items()) {
    const bool common = key == "rope_type" || key == "type" || key == "rope_theta" || key == "partial_rotary_factor";
    const bool known = common || std::find(spelling.keys.begin(), spelling.keys.end(), key) != spelling.keys.end();
    if (!known && !each.is_null()) {
      config.refuse(concat(object, ".", key), concat("is not among what rotary positions of type ", spelling.type, " have"));
    }
  }
  const auto key = [&](const char* name) { return concat(object, ".", name); };
  RotaryConfig rotary;
  rotary.scaling = spelling.scaling;
  if (rotary.scaling == RotaryScaling::kNone) return rotary;
  rotary.factor = config.positive(key("factor"));
  if (rotary.factor < 1) config.refuse(key("factor"), "must be at least 1");
  if (rotary.scaling == RotaryScaling::kDynamic) rotary.original_length = positions;
  if (rotary.scaling == RotaryScaling::kYarn || rotary.scaling == RotaryScaling::kLlama3) {
    const auto beside = config.maybe_integer("original_max_position_embeddings", 1, 1 << 24);  // which counts where both are there
    const auto inside = config.maybe_integer(key("original_max_position_embeddings"), 1, 1 << 24);
    rotary.original_length = beside ? *beside : inside.value_or(positions);
  }
  if (rotary.scaling == RotaryScaling::kYarn) {
    if (config.find(key("attention_factor")) != nullptr) rotary.attention_factor = config.positive(key("attention_factor"));
    rotary.mscale = config.maybe_number(key("mscale")).value_or(0);
    rotary.mscale_all_dim = config.maybe_number(key("mscale_all_dim")).value_or(0);
    // Zero stands for their defaults.
    if (const double fast = config.maybe_number(key("beta_fast")).value_or(0); fast > 0) rotary.beta_fast = fast;
    if (const double slow = config.maybe_number(key("beta_slow")).value_or(0); slow > 0) rotary.beta_slow = slow;
    if (rotary.beta_fast < rotary.beta_slow) config.refuse(key("beta_fast"), concat("must be at least beta_slow (", rotary.beta_slow, ")"));
    rotary.truncate = config.flag(key("truncate"), true);
  }
  if (rotary.scaling == RotaryScaling::kLlama3) {
    rotary.low_frequency_factor = config.positive(key("low_freq_factor"));
    rotary.high_frequency_factor = config.positive(key("high_freq_factor"));
    if (rotary.high_frequency_factor <= rotary.low_frequency_factor) {
      config.refuse(key("high_freq_factor"), concat("must be above low_freq_factor (", rotary.low_frequency_factor, ")"));
    }
  }
  return rotary;
}

}  // namespace

void read_rotary(HfConfigReader& config, int64_t positions, std::optional<double> default_theta, ModelConfig& model) {
  std::optional<RotaryConfig> rotary;
  for (const std::string object : {"rope_scaling", "rope_parameters"}) {
    const Json* value = config.look(object);
    if (value == nullptr) continue;
    if (!value->is_object()) config.refuse(object, "must be an object");
    if (value->empty()) continue;
    const RotaryConfig read = read_object(config, object, *value, positions);
    if (rotary && read != *rotary) config.refuse(object, "is not what rope_scaling says");
    rotary = read;
  }
  model.rotary = rotary.value_or(RotaryConfig());
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
  if (!theta) theta = default_theta;
  if (!theta) config.refuse("rope_theta", "must be given, there or in rope_parameters");
  if (*theta <= 1 && model.rotary.scaling == RotaryScaling::kYarn) config.refuse("rope_theta", "must be above 1 with yarn");
  model.rope_theta = *theta;
}

void write_rotary(const ModelConfig& model, Json& config) {
  const RotaryConfig& rotary = model.rotary;
  const auto spelling =
      std::find_if(spellings().begin(), spellings().end(), [&](const auto& each) { return each.scaling == rotary.scaling; });
  Json scaling = {{"rope_type", spelling->type}};
  if (rotary.scaling != RotaryScaling::kNone) scaling["factor"] = rotary.factor;
  if (rotary.scaling == RotaryScaling::kYarn || rotary.scaling == RotaryScaling::kLlama3) {
    scaling["original_max_position_embeddings"] = rotary.original(model.sequence_length);
  }
  if (rotary.scaling == RotaryScaling::kYarn) {
    if (rotary.attention_factor > 0) scaling["attention_factor"] = rotary.attention_factor;
    if (rotary.mscale > 0) scaling["mscale"] = rotary.mscale;
    if (rotary.mscale_all_dim > 0) scaling["mscale_all_dim"] = rotary.mscale_all_dim;
    scaling["beta_fast"] = rotary.beta_fast;
    scaling["beta_slow"] = rotary.beta_slow;
    scaling["truncate"] = rotary.truncate;
  }
  if (rotary.scaling == RotaryScaling::kLlama3) {
    scaling["low_freq_factor"] = rotary.low_frequency_factor;
    scaling["high_freq_factor"] = rotary.high_frequency_factor;
  }
  config.erase("original_max_position_embeddings");
  config["rope_theta"] = model.rope_theta;
  config["rope_scaling"] = rotary.scaling == RotaryScaling::kNone ? Json() : scaling;
  config["rope_parameters"] = {{"rope_theta", model.rope_theta}};
  config["rope_parameters"].update(scaling);
  if (rotary.scaling == RotaryScaling::kDynamic) config["max_position_embeddings"] = rotary.original(model.sequence_length);
}

}  // namespace pimoe
