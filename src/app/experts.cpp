#include "app/experts.h"

#include "analysis/expert_measurement.h"
#include "app/checkpoint_option.h"
#include "app/number_checks.h"
#include "app/output_file.h"
#include "app/print_json.h"
#include "app/run_setup.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/utf8.h"
#include "base/work_progress.h"
#include "data/corpus_facts.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <iostream>

namespace pimoe {
namespace {

constexpr int64_t kMostBatches = 1 << 24;  ///< as train.validation_batches

const std::map<std::string, TextKind> kTextKinds = {{"python", TextKind::kPython}, {"prose", TextKind::kProse}};

/// CLI11's own check would show the numbers behind the names, too.
std::string complaint_about_classes(const std::string& name) {
  return kTextKinds.contains(name) ? "" : concat("'", name, "' must be python or prose");
}

struct ExpertsOptions {
  std::filesystem::path checkpoint;
  ExpertsMeasurement measurement;
  std::filesystem::path svg;
  std::string classes = "python";
  bool json = false;
};

/// Takes what was not given from the checkpoint's configuration.
void fill_in(ExpertsMeasurement& options, const TrainConfig& config) {
  if (options.data.empty()) options.data = config.data.validation.empty() ? config.data.train : config.data.validation;
  if (options.data.empty()) throw UsageError("the checkpoint's configuration names no corpus, or a blend of several: give --data PREFIX");
  if (options.tokenizer.empty()) options.tokenizer = config.data.tokenizer;
  if (options.tokenizer.empty()) options.tokenizer = tokenizer_beside(options.data);
  if (options.tokenizer.empty()) throw UsageError("the checkpoint's configuration names no tokenizer: give --tokenizer FILE");
  if (options.batches == 0) options.batches = config.train.validation_batches;
}

ExitCode experts(ExpertsOptions options, AppContext& context) {
  if (!options.svg.empty()) require_writable(options.svg);
  const LoadedModel loaded = load_model(options.checkpoint, context, ModelSpread::kWhole);
  if (loaded.config.model.moe_layers() == 0)
    throw CheckpointError(concat(loaded.folder.string(), " has no MoE layer: there are no experts"));
  options.measurement.kind = kTextKinds.at(options.classes);
  fill_in(options.measurement, loaded.config);
  ExpertReport report;
  {
    const WorkProgress progress("sequences", WorkUnit::kCount, context.log, options.measurement.batches * loaded.config.train.global_batch);
    report = measure_experts(loaded, options.measurement);
  }
  report.checkpoint = loaded.folder.string();
  if (!options.svg.empty()) {
    replace_file(options.svg, to_heat_map(report));
    context.log.info(concat("heat map: ", options.svg.string()));
  }
  if (options.json) {
    print_json(to_json(report));
  } else {
    std::cout << printable(to_text(report), /*keep_lines=*/true);
  }
  return ExitCode::kDone;
}

}  // namespace

void add_experts_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<ExpertsOptions>();
  CLI::App* command =
      app.add_subcommand("experts", "Measure which classes of tokens a model's experts receive: shares, mutual information, heat map");
  add_checkpoint_option(*command, "path", options->checkpoint);
  command
      ->add_option("--data", options->measurement.data,
                   "corpus to read from its beginning (default: the run's validation corpus, else its training corpus)")
      ->type_name("PREFIX");
  command->add_option("--batches", options->measurement.batches, "global batches to read (default: train.validation_batches)")
      ->check(whole_number_in(1, kMostBatches));
  command
      ->add_option("--classes", options->classes,
                   "how the text is read. python: identifier, keyword, number, operator, whitespace, string, comment; prose: word, digit, "
                   "punctuation, whitespace")
      ->check(complaint_about_classes)
      ->capture_default_str()
      ->type_name("python|prose");
  command
      ->add_option("--tokenizer", options->measurement.tokenizer,
                   "SentencePiece model or tokenizer.json, if not the one that the checkpoint names")
      ->type_name("FILE");
  command->add_option("--svg", options->svg, "write the heat map")->type_name("FILE");
  command->add_flag("--json", options->json, "print JSON");
  command->footer(
      "Example:\n  pimoe experts runs/quickstart --batches 32 --svg experts.svg\nOn one process; docs/experts.md says what the numbers "
      "mean.");
  command->callback([options, &context] { context.action = [options, &context] { return experts(*options, context); }; });
}

}  // namespace pimoe
