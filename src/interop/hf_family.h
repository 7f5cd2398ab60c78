#pragma once

#include "model/model_config.h"

#include <nlohmann/json.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// The model families of Hugging Face transformers that our model computes exactly.
enum class HfFamily { kLlama, kQwen2, kQwen3, kMixtral, kQwen2Moe, kQwen3Moe, kOlmoe, kDeepseekV2, kDeepseekV3 };
inline constexpr std::array kHfFamilies = {HfFamily::kLlama,   HfFamily::kQwen2,      HfFamily::kQwen3,
                                           HfFamily::kMixtral, HfFamily::kQwen2Moe,   HfFamily::kQwen3Moe,
                                           HfFamily::kOlmoe,   HfFamily::kDeepseekV2, HfFamily::kDeepseekV3};

struct HfFamilyTraits {
  HfFamily family;
  const char* model_type;    ///< in config.json
  const char* architecture;  ///< likewise
  bool has_experts;
  bool has_qk_norm;
  bool has_latent;  ///< latent attention
};

const HfFamilyTraits& traits_of(HfFamily family);

/// What config.json says, as our model.
struct HfModel {
  HfFamily family = HfFamily::kLlama;
  ModelConfig model;
  int64_t predictors = 0;            ///< layers behind the model's that predict further tokens, which are left out
  std::vector<std::string> remarks;  ///< what is there and has no meaning here, one line each
};

/// Reads config.json, in the spelling of transformers 4 (rope_theta, rope_scaling, torch_dtype) or 5 (rope_parameters, dtype).
/// @param sequence_length  model.sequence_length; 0: max_position_embeddings
/// @throws DataError naming the key, its value and the feature, where the family is another or the model computes what ours does not
HfModel model_of_config(const nlohmann::ordered_json& config, const std::string& name, int64_t sequence_length);

/// @returns the family that computes what the model does
/// @throws DataError naming the key of our configuration that none of them has
HfFamily family_of(const ModelConfig& model);

/// What a run's configuration limits in training, and no family has: it is not in effect once exported. One line each.
std::vector<std::string> doubts_about_export(const ModelConfig& model);

/// @param carried  config.json of the model's origin, or an empty object: what the model itself does not say (token ids, training's keys) comes from it
/// @param dtype    "bfloat16"
/// @returns config.json that transformers 4 and 5 read
/// @throws DataError if `carried` is of another family
nlohmann::ordered_json config_of_model(const ModelConfig& model, const nlohmann::ordered_json& carried, const std::string& dtype);

}  // namespace pimoe
