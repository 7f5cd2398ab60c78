#pragma once

#include "data/tokenizer.h"
#include "model/transformer.h"
#include "parallel/mpi_session.h"
#include "parallel/process_mesh.h"
#include "train/train_config.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// A model that requests are answered with, and what it stands on.
struct ServedModel {
  std::shared_ptr<const void> owner;  ///< of what follows
  const Transformer* model = nullptr;
  const ProcessMesh* mesh = nullptr;
  std::string checkpoint;  ///< its folder
  int64_t step = 0;
  TrainConfig config;              ///< the checkpoint's, with what is left out; of tests the model's alone
  std::vector<std::string> notes;  ///< what is left out of the configuration, for rank 0's log
};

/// Loads a model onto all ranks. Collective; what it throws is thrown on every rank.
using ModelLoader = std::function<ServedModel(const std::filesystem::path& checkpoint)>;

/// Loads checkpoints with experts shared out over all ranks. `session` must outlive the loader and its models.
/// @throws  of the loader: CheckpointError, and ConfigError for a model whose routers go by the batch (expert choice, uniform)
ModelLoader checkpoint_loader(const MpiSession& session);

/// What tokens say, as the engine needs it.
struct TokenTexts {
  /// The bytes that each id adds to a text; ids beyond it have none.
  std::vector<std::string> texts;
  int64_t beginning = 0;  ///< stands for an empty prompt: the end of the document before it

  static TokenTexts of(const Tokenizer& tokenizer);
};

}  // namespace pimoe
