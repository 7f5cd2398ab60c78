#pragma once

#include "base/log.h"
#include "interop/hf_family.h"

#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace pimoe {

struct HfExportOptions {
  at::ScalarType dtype = at::kBFloat16;  ///< of all weights
  int64_t shard_bytes = 5'000'000'000;   ///< of one file at most
  std::filesystem::path companions;      ///< folder with config.json and tokenizer of the model's origin; empty: none
  std::filesystem::path tokenizer;       ///< the run's, where `companions` has none; empty: none
  int64_t end_of_document = -1;          ///< its id, where config.json has none of its own; -1: none
};

struct HfExportFacts {
  HfFamily family = HfFamily::kLlama;
  std::vector<std::string> files;
  int64_t parameters = 0;
  int64_t bytes = 0;  ///< of all weights
};

/// Writes the weights of a checkpoint, whatever layout wrote it, into a new folder as Hugging Face's libraries read it.
/// @param model   of the checkpoint's configuration
/// @param folder  there, and empty
/// @throws DataError naming the key of the configuration, or the state, that transformers' families do not have; CheckpointError where the checkpoint
///         is damaged or of another model; IoError
/// @cost reads the checkpoint's files with masters once; memory of 64 MB of elements, beside what the file system maps
HfExportFacts export_to_hf(const std::filesystem::path& checkpoint, const ModelConfig& model, const std::filesystem::path& folder,
                           const HfExportOptions& options, Logger& log);

}  // namespace pimoe
