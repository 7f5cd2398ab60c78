#pragma once

#include "base/log.h"
#include "interop/hf_import.h"
#include "parallel/process_mesh.h"
#include "train/initial_weights.h"
#include "train/train_config.h"

#include <filesystem>
#include <string>
#include <vector>

namespace pimoe {

/// Runs that begin with a model of Hugging Face's: what `import` writes, and what `model.initial_weights` stands for.

/// Files of the model that are not its weights, in a run folder: "hf"
inline constexpr const char* kCompanionFolder = "hf";

/// Keys of a run that goes on from weights that have learned; all else is a default.
TrainConfig config_for_weights(const ModelConfig& model);

/// @returns the name of the folder's file that data.tokenizer can be: transformers too takes tokenizer.json before tokenizer.model; "" where PiMoE reads
///          neither, which is said
std::string readable_tokenizer_in(const std::filesystem::path& folder, const ModelConfig& model, Logger& log);

/// For load_train_config, of every command that takes a configuration. @param log  outlives it
PretrainedDefaults hugging_face_defaults(Logger& log);

/// The configuration of commands that draw weights whatever model.initial_weights says: of that they take the model alone. A corpus may be missing.
TrainConfig load_config_to_draw(const ConfigSource& file, const std::vector<std::string>& overrides, Logger& log);

/// For the trainer: each rank reads its own stretches of the weights. Null where model.initial_weights is empty.
/// @param config, mesh, log  outlive it
InitialWeights initial_weights_of(const TrainConfig& config, const ProcessMesh& mesh, Logger& log);

/// Before a run begins with model.initial_weights: RUN/hf, as of an imported run. Collective. @throws the same on every rank, DataError, IoError
void keep_companions(const TrainConfig& config, const HostCommunicator& ranks);

/// @returns the origin's files: RUN/hf of RUN/checkpoints/step-N, or of the run that this one went on from; empty: there are none
/// @param config  of the checkpoint
std::filesystem::path companions_of(const std::filesystem::path& checkpoint, const TrainConfig& config);

/// @returns "rank 0 12.1 MB, rank 1 12.0 MB", or of many ranks "12.0 to 12.1 MB a rank", of what each rank read. Collective.
std::string bytes_by_rank(int64_t bytes, const HostCommunicator& ranks);

}  // namespace pimoe
