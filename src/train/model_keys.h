#pragma once

#include "base/config_values.h"
#include "model/model_config.h"

namespace pimoe {

/// Keys of `model` that say what the model computes, "model.layers" and so on, with their values. How experts are balanced, limited, checked, kept in
/// memory and sent tokens, and where the weights began, may change from run to run: of these it has `other`'s.
ConfigValues model_identity(ModelConfig model, const ModelConfig& other);

}  // namespace pimoe
