#pragma once

/// What `quantize` and `prune` share: on what both models are measured, what is said of them, and whether the smaller one is kept.

#include "app/command.h"
#include "app/new_folder.h"
#include "compress/compression_report.h"
#include "train/loaded_model.h"
#include "train/validation.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace pimoe {

struct MeasureOptions {
  std::filesystem::path data;
  int64_t batches = 0;
  std::optional<double> max_loss_increase;
  bool json = false;
};

/// --data, --batches, --max-loss-increase, --json
void add_measure_options(CLI::App& command, MeasureOptions& options);

/// @throws UsageError where neither the options nor the configuration name one
std::filesystem::path measured_corpus(const MeasureOptions& options, const TrainConfig& config);
ValidationPlan measured_part(const MeasureOptions& options, const TrainConfig& config);

/// The folder that a smaller model is written into, on rank 0; its path on all. Collective. @throws as NewFolder and require_no_other_run
struct CompressedFolder {
  CompressedFolder(const std::filesystem::path& output, const HostCommunicator& ranks);

  std::optional<NewFolder> folder;
  std::filesystem::path unfinished;
};

/// What a run has of the model that it began with (pretrained.h): RUN/hf, which goes along, so that the smaller one needs no other run. Collective
struct CarriedFiles {
  /// @param checkpoint  that is made smaller, of this configuration
  CarriedFiles(const std::filesystem::path& checkpoint, const TrainConfig& config, const HostCommunicator& ranks);

  /// Tokenizer and chat template of RUN/hf become those of the new run.
  void name_in(TrainConfig& config, const std::filesystem::path& output) const;
  /// On rank 0 alone. @throws IoError, DataError
  void copy_into(const std::filesystem::path& run) const;

  std::filesystem::path folder;  ///< empty: there is none
};

/// Loads the smaller model that was just written, of which the log says nothing: it is no checkpoint of the user's yet. Collective.
LoadedModel load_result(const std::filesystem::path& checkpoint, AppContext& context);

/// Publishes the folder, unless --max-loss-increase refuses it, and prints the report. Collective.
/// @param more_json, more_text  what the command has to say besides; text goes behind the report's
ExitCode conclude(const CompressionReport& report, const MeasureOptions& options, CompressedFolder& folder, const ProcessMesh& mesh,
                  const nlohmann::ordered_json& more_json, const std::string& more_text, Logger& log);

}  // namespace pimoe
