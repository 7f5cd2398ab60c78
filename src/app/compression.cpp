#include "app/compression.h"

#include "app/number_checks.h"
#include "app/pretrained.h"
#include "app/print_json.h"
#include "app/run_owner.h"
#include "app/run_setup.h"
#include "base/errors.h"
#include "base/text.h"
#include "interop/hf_companions.h"
#include "parallel/agreement.h"
#include "train/seen_by_rank_0.h"

#include <nlohmann/json.hpp>

#include <iostream>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostBatches = 1 << 24;  ///< as train.validation_batches
constexpr double kMostIncrease = 1e6;
constexpr int64_t kUsualMicroBatch = 8;

}  // namespace

void add_measure_options(CLI::App& command, MeasureOptions& options) {
  command.add_option("--data", options.data, "corpus to measure on (default: the run's validation corpus)")->type_name("PREFIX");
  command
      .add_option("--batches", options.batches, "its first N batches of train.global_batch sequences (default: train.validation_batches)")
      ->check(whole_number_in(1, kMostBatches));
  command
      .add_option("--max-loss-increase", options.max_loss_increase,
                  "as a share of the loss before, 0.005 for half a percent: beyond it nothing is written, and the exit code is 1")
      ->check(number_in(0.0, kMostIncrease))
      ->type_name("SHARE");
  command.add_flag("--json", options.json, "print JSON: what was measured before and after, and each layer");
}

fs::path measured_corpus(const MeasureOptions& options, const TrainConfig& config) {
  if (!options.data.empty()) return options.data;
  if (config.data.validation.empty()) throw UsageError("the checkpoint's configuration names no validation corpus: give --data PREFIX");
  return config.data.validation;
}

ValidationPlan measured_part(const MeasureOptions& options, const TrainConfig& config) {
  return {.batch = config.train.global_batch,
          .micro_batch = config.train.micro_batch > 0 ? config.train.micro_batch : kUsualMicroBatch,
          .batches = options.batches > 0 ? options.batches : config.train.validation_batches,
          .document_mask = config.data.document_mask};
}

CompressedFolder::CompressedFolder(const fs::path& output, const HostCommunicator& ranks) {
  do_together(ranks, [&] {
    if (ranks.rank() != 0) return;
    require_no_other_run(output, output, /*run=*/"");
    folder.emplace(output);
  });
  unfinished = ranks.broadcast_text(folder ? folder->path().string() : "", 0);
}

CarriedFiles::CarriedFiles(const fs::path& checkpoint, const TrainConfig& config, const HostCommunicator& ranks)
    : folder(seen_by_rank_0(ranks, [&] { return companions_of(checkpoint, config).string(); })) {}

void CarriedFiles::name_in(TrainConfig& config, const fs::path& output) const {
  if (folder.empty()) return;
  for (std::string* file : {&config.data.tokenizer, &config.data.chat_template}) {
    if (file->empty() || fs::weakly_canonical(*file).parent_path() != fs::weakly_canonical(folder)) continue;
    *file = output / kCompanionFolder / fs::path(*file).filename();
  }
}

void CarriedFiles::copy_into(const fs::path& run) const {
  if (folder.empty()) return;
  fs::create_directories(run / kCompanionFolder);
  copy_companions(folder, run / kCompanionFolder, /*upcycled=*/false);
}

LoadedModel load_result(const fs::path& checkpoint, AppContext& context) {
  return load_quietly(checkpoint, "loading the smaller model", context, ModelSpread::kShared);
}

ExitCode conclude(const CompressionReport& report, const MeasureOptions& options, CompressedFolder& folder, const ProcessMesh& mesh,
                  const nlohmann::ordered_json& more_json, const std::string& more_text, Logger& log) {
  const bool refused = options.max_loss_increase && !(report.loss_increase() <= *options.max_loss_increase);
  do_together(mesh.control(), [&] {
    if (folder.folder && !refused) folder.folder->publish();
  });
  std::string trouble;
  if (mesh.rank() == 0) {
    if (options.json) {
      nlohmann::ordered_json json = to_json(report);
      json.update(more_json);
      json["written"] = !refused;
      print_json(json);
    } else {
      std::cout << to_text(report) << more_text;
    }
    if (refused) {
      trouble = concat("the loss rose by ", fixed(100 * report.loss_increase(), 3), " %, and --max-loss-increase allows ",
                       fixed(100 * *options.max_loss_increase, 3), " %: ", report.output, " was not written");
      log.error(trouble);
    }
  }
  return verdict_of_rank_0(trouble, mesh);
}

}  // namespace pimoe
