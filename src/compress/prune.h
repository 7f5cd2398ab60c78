#pragma once

#include "base/log.h"
#include "compress/pruning_plan.h"
#include "parallel/process_mesh.h"
#include "train/train_config.h"

#include <filesystem>
#include <vector>

namespace pimoe {

/// What becomes of each MoE layer. By this process alone.
/// @param from           the checkpoint: its experts are looked at where some are to be merged
/// @param before, after  configurations: of the checkpoint, and smaller_config of it
/// @param layer_inputs   sampled_layer_inputs; of kMerge alone
/// @throws CheckpointError where the checkpoint is damaged
std::vector<LayerPlan> plan_pruning(const std::filesystem::path& from, PruneKind kind, const ModelConfig& before, const ModelConfig& after,
                                    const std::vector<LayerImportance>& importance, const std::vector<at::Tensor>& layer_inputs,
                                    Logger& log);

/// Writes a checkpoint, whatever layout wrote it, again as one of step 0 of a smaller model, as a run has one that has not taken a step: masters, moments of zeros.
/// The data goes on where the checkpoint stopped reading. By this process alone.
/// @param before, config  configurations: of the checkpoint, and smaller_config of it
/// @param plans           of each MoE layer
/// @throws CheckpointError where the checkpoint is damaged; SaveError
/// @cost reads masters once, of experts that are made of several those once more; memory of two files of 128 MB and what one expert has
void write_pruned(const std::filesystem::path& from, const std::filesystem::path& to, const TrainConfig& before, const TrainConfig& config,
                  const ProcessMesh& mesh, const std::vector<LayerPlan>& plans, Logger& log);

}  // namespace pimoe
