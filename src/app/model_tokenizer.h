#pragma once

#include "data/tokenizer.h"
#include "train/train_config.h"

#include <filesystem>

namespace pimoe {

/// The tokenizer that a model is used with.
/// @param path  what --tokenizer names, or empty: then the configuration's; becomes the file that was read
/// @throws UsageError where neither names one; DataError where there is none, or it has more tokens than the model
Tokenizer model_tokenizer(std::filesystem::path& path, const TrainConfig& config);

}  // namespace pimoe
