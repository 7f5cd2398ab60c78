#pragma once

#include "base/log.h"
#include "compress/compression_report.h"
#include "train/loaded_model.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace pimoe {

/// @returns the matrices that a model of this configuration has in int8: "layers.0.moe.experts.down.weight", ...
std::set<std::string> quantized_matrices(const ModelConfig& model, const ProcessMesh& mesh);

/// Writes the weights of a checkpoint, whatever layout wrote it, again as a quantized model has them: int8 numbers and their scales in place of the matrices,
/// all else as it is, moments left out. By this process alone.
/// @param config        of the model to be, model.quantization says what becomes int8
/// @param input_scales  by the matrix' name, of a static one: Calibration::scales
/// @throws CheckpointError where the checkpoint is damaged, or a weight is not finite; SaveError
/// @cost reads masters once; memory of two files of 128 MB and a part of a tensor, beside what the file system maps
void write_quantized(const std::filesystem::path& from, const std::filesystem::path& to, const TrainConfig& config, const ProcessMesh& mesh,
                     const std::map<std::string, at::Tensor>& input_scales, Logger& log);

}  // namespace pimoe
