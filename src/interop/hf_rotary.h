#pragma once

/// Rotary positions of config.json, in the spelling of transformers 4 (rope_theta, rope_scaling) and 5 (rope_parameters).

#include "interop/hf_config_reader.h"
#include "model/model_config.h"

namespace pimoe {

/// Sets rope_theta and rotary.
/// @param positions      max_position_embeddings
/// @param default_theta  of families whose config.json may not say it
/// @throws DataError naming the key, where the positions are none that PiMoE has, or the two spellings do not agree
void read_rotary(HfConfigReader& config, int64_t positions, std::optional<double> default_theta, ModelConfig& model);

/// Writes both spellings.
void write_rotary(const ModelConfig& model, nlohmann::ordered_json& config);

}  // namespace pimoe
