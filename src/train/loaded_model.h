#pragma once

#include "data/tokenizer.h"
#include "parallel/mpi_communicator.h"
#include "parallel/parameter_buckets.h"
#include "train/train_config.h"

#include <filesystem>
#include <memory>
#include <string>

namespace pimoe {

/// A model out of a checkpoint, whole on this process, without optimizer state: for generate and experts.
struct LoadedModel {
  /// @param checkpoint  a step-* folder or a run folder; whatever layout wrote it
  /// @throws CheckpointError, ConfigError
  LoadedModel(const std::filesystem::path& checkpoint, const MpiSession& session);

  std::filesystem::path folder;  ///< of the checkpoint
  int64_t step = 0;
  std::string proof;  ///< what was said of the loss, load_proof.h
  TrainConfig config;
  std::unique_ptr<ProcessMesh> mesh;
  std::unique_ptr<Transformer> model;
  std::unique_ptr<ParameterBuckets> buckets;
};

}  // namespace pimoe
