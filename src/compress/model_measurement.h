#pragma once

#include "compress/compression_report.h"
#include "train/loaded_model.h"
#include "train/validation.h"

#include <string>
#include <vector>

namespace pimoe {

/// The loss of a corpus, as `pimoe evaluate` has it, which experts its tokens are given, and how fast the model is. Collective
/// @throws DataError where the corpus is missing, damaged, too short, or has an id beyond the model's vocabulary
ModelMeasurement measure_model(const LoadedModel& loaded, const TokenFile& corpus, const ValidationPlan& plan, const std::string& what,
                               Logger& log);

/// @returns each layer's agreement and use of experts; output errors are for who knows what changed. Collective
std::vector<LayerChange> compare_layers(const LoadedModel& loaded, const ModelMeasurement& before, const ModelMeasurement& after);

/// What a checkpoint's weights take, moments left out.
ModelSize size_of(const std::filesystem::path& checkpoint, const ModelConfig& model);

}  // namespace pimoe
