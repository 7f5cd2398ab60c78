#pragma once

#include "data/tokenizer.h"
#include "parallel/mpi_session.h"
#include "parallel/parameter_buckets.h"
#include "train/train_config.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

namespace pimoe {

/// Where a loaded model's experts lie.
enum class ModelSpread {
  kWhole,   ///< all on this process
  kShared,  ///< shared out over all ranks that were started, as mesh.expert_parallel=auto would, whatever layout trained it
};

/// A model out of a checkpoint, without optimizer state: for generate, evaluate and experts.
struct LoadedModel {
  /// @param checkpoint  a step-* folder or a run folder; whatever layout wrote it. Shared: rank 0 finds it and reads its configuration
  /// @param change      made to the checkpoint's configuration before the model is built; null: none
  /// @throws CheckpointError, ConfigError, IoError; with kShared the same on every rank, also for what goes wrong on one alone. With kShared collective
  LoadedModel(const std::filesystem::path& checkpoint, const MpiSession& session, ModelSpread spread = ModelSpread::kWhole,
              const std::function<void(TrainConfig&)>& change = nullptr);

  std::filesystem::path folder;  ///< of the checkpoint
  int64_t step = 0;
  std::string proof;  ///< what was said of the loss, load_proof.h
  TrainConfig config;
  std::unique_ptr<ProcessMesh> mesh;
  std::unique_ptr<Transformer> model;
  std::unique_ptr<ParameterBuckets> buckets;
};

}  // namespace pimoe
