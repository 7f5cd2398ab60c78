#pragma once

#include "base/errors.h"
#include "train/train_config.h"

#include <string>
#include <vector>

namespace pimoe {

/// Something that `train` would refuse, with the exit code that it would leave with.
struct Trouble {
  ExitCode code = ExitCode::kBadConfig;
  std::string text;
};

struct RunFolderFacts {
  int64_t free_bytes = -1;  ///< of its file system; -1: unknown
  int64_t checkpoints = 0;  ///< that are there
  int64_t resumes_at = -1;  ///< step of the checkpoint that the run goes on from; -1: from scratch
};

/// One corpus of a blend.
struct BlendFacts {
  std::string prefix;
  double share = 0.0;             ///< of the samples
  int64_t samples_per_epoch = 0;  ///< of this corpus
  double epochs = 0.0;            ///< of it that the whole run reads
};

/// What could be found out on this machine before a run.
struct Preflight {
  std::vector<Trouble> troubles;
  std::vector<std::string> warnings;
  std::vector<BlendFacts> blend;  ///< empty for one corpus, and where one cannot be read
  RunFolderFacts folder;

  /// Runs `look` and takes down what it throws. @returns whether it threw nothing
  bool attempt(const std::function<void()>& look);
};

/// Corpora and tokenizer: there, readable, long enough, and with ids below the vocabulary.
/// @cost reads the first 2^28 tokens of each corpus
void look_at_data(const TrainConfig& config, Preflight& found);

/// Recorded routing: there, of this model, and of steps that the run has to do. After look_at_run_folder, which says where it goes on.
void look_at_replay(const TrainConfig& config, Preflight& found);

/// The run folder, and that of its recordings of routing: whether it can be written, what a run would resume from and whether that is the same
/// model. Changes nothing.
/// @param model_known  false where the vocabulary is not: what would be resumed is left out
void look_at_run_folder(const TrainConfig& config, bool model_known, Preflight& found);

}  // namespace pimoe
