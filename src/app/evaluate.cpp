#include "app/evaluate.h"

#include "app/checkpoint_option.h"
#include "app/number_checks.h"
#include "app/print_json.h"
#include "app/run_setup.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/corpus_facts.h"
#include "train/evaluation.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <iostream>

namespace pimoe {
namespace {

constexpr int64_t kMostBatches = 1 << 24;     ///< as train.validation_batches
constexpr int64_t kMostMicroBatch = 1 << 24;  ///< as train.micro_batch
constexpr int64_t kUsualMicroBatch = 8;
constexpr const char* kNoTokenizer = "none";

struct EvaluateOptions {
  std::filesystem::path checkpoint;
  std::vector<std::string> data;
  ValidationPlan plan{.batch = 1, .micro_batch = 0, .batches = 0};
  std::string tokenizer;
  std::string document_mask;  ///< on, off, or empty: as the checkpoint
  bool json = false;
};

/// Takes what was not given from the checkpoint's configuration.
void fill_in(EvaluateOptions& options, const TrainConfig& config) {
  if (options.data.empty()) {
    if (config.data.validation.empty()) throw UsageError("the checkpoint's configuration names no validation corpus: give --data PREFIX");
    options.data.push_back(concat("validation=", config.data.validation));
  }
  options.plan.batch = config.train.global_batch;
  if (options.plan.micro_batch == 0) options.plan.micro_batch = config.train.micro_batch;
  if (options.plan.micro_batch == 0) options.plan.micro_batch = kUsualMicroBatch;
  options.plan.document_mask = options.document_mask.empty() ? config.data.document_mask : options.document_mask == "on";
}

/// The tokenizer that was given, else the run's, else the one beside the first corpus; nothing where there is none: then nobody knows how many bytes
/// a token has.
std::optional<Tokenizer> tokenizer_for(const EvaluateOptions& options, const NamedCorpus& first, const TrainConfig& config, Logger& log) {
  if (options.tokenizer == kNoTokenizer) return std::nullopt;
  if (!options.tokenizer.empty()) return Tokenizer(options.tokenizer);
  std::error_code ignored;
  if (!config.data.tokenizer.empty() && std::filesystem::is_regular_file(config.data.tokenizer, ignored)) {
    return Tokenizer(config.data.tokenizer);
  }
  if (const std::filesystem::path beside = tokenizer_beside(first.prefix); !beside.empty()) return Tokenizer(beside);
  log.info(concat("bits per byte are unknown: there is no tokenizer",
                  config.data.tokenizer.empty() ? "" : concat(" (", config.data.tokenizer, " is no file)"), "; give --tokenizer FILE"));
  return std::nullopt;
}

/// What makes the figures others than a reader may think.
void warn(const TrainConfig& config, const ProcessMesh& mesh, Logger& log) {
  if (mesh.rank() != 0) return;
  MoeConfig moe = config.model.moe;
  if (config.model.moe_layers() == 0) return;
  if (moe.may_drop()) {
    log.warning(concat("model.moe.", moe.capacity_factor > 0 ? "capacity_factor" : "rank_overflow: drop",
                       " drops slots of each rank's micro-batch: the loss changes with the ranks and --micro-batch"));
  }
  if (moe.router_traits().by_expert) {
    log.warning(
        concat("model.moe.router.kind (", moe.router_kind(), ") sees the whole sequence: the loss of a token knows those after it"));
  }
}

ExitCode evaluate(EvaluateOptions options, AppContext& context) {
  const LoadedModel loaded = load_model(options.checkpoint, context, ModelSpread::kShared);
  fill_in(options, loaded.config);
  const std::vector<NamedCorpus> corpora = named_corpora(options.data);
  const std::optional<Tokenizer> tokenizer = tokenizer_for(options, corpora.front(), loaded.config, context.log);
  warn(loaded.config, *loaded.mesh, context.log);
  const auto begun = std::chrono::steady_clock::now();
  const EvaluationReport report = evaluate_corpora(loaded, corpora, options.plan, tokenizer ? &*tokenizer : nullptr, context.log);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  if (loaded.mesh->rank() != 0) return ExitCode::kDone;
  if (report.document_mask) {
    context.log.info("attention stays inside documents, whose first tokens are not predicted: data.document_mask, or --document-mask on");
  }
  const int64_t tokens = report.total().tokens;
  context.log.info(concat("evaluated ", counted(tokens, "token"), " in ", human_duration(seconds), ", ",
                          grouped(static_cast<int64_t>(static_cast<double>(tokens) / seconds)), " tok/s"));
  if (options.json) {
    print_json(to_json(report));
  } else {
    std::cout << printable(to_text(report), /*keep_lines=*/true);
  }
  return ExitCode::kDone;
}

}  // namespace

void add_evaluate_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<EvaluateOptions>();
  CLI::App* command = app.add_subcommand("evaluate", "Measure a trained model's loss, perplexity and bits per byte on corpora");
  add_checkpoint_option(*command, "checkpoint,--checkpoint", options->checkpoint);
  command
      ->add_option("--data", options->data,
                   "corpus of PREFIX.bin and PREFIX.idx, several times for a row each (default: the run's validation corpus)")
      ->type_name("[NAME=]PREFIX")
      ->allow_extra_args(false);
  command
      ->add_option("--batches", options->plan.batches,
                   "the first N batches of train.global_batch sequences alone, as training validates (default: the whole corpus)")
      ->check(whole_number_in(1, kMostBatches));
  command
      ->add_option("--micro-batch", options->plan.micro_batch,
                   "sequences that a rank computes at a time, at most (default: train.micro_batch)")
      ->check(whole_number_in(1, kMostMicroBatch));
  command
      ->add_option("--tokenizer", options->tokenizer,
                   "SentencePiece model or tokenizer.json that tells a token's bytes, if not the one that the checkpoint names; none: no "
                   "bits per byte")
      ->type_name("FILE");
  command
      ->add_option(
          "--document-mask", options->document_mask,
          "on: a token sees its own document alone, and a document's first token is not predicted; off: all before it in its sequence "
          "(default: data.document_mask, as the model was trained)")
      ->check(CLI::IsMember({"on", "off"}))
      ->type_name("on|off");
  command->add_flag("--json", options->json, "print JSON: loss, perplexity, tokens, bits_per_byte, ... and the same of each corpus");
  command->footer(
      "A corpus is read from its beginning in sequences of model.sequence_length tokens, each of which is predicted once from those "
      "before\n"
      "it in its sequence; the corpus' first token has none and is not. What is left at the end is a shorter sequence, computed as it is,\n"
      "without padding. With --batches only whole sequences count, as in training; tokens that were left out are said.\n"
      "Of a model that was trained with data.document_mask each document stands for itself (--document-mask).\n"
      "loss: mean cross-entropy of a token in nats. bits per byte: all tokens' bits (ends of documents too) over the bytes of their text.\n"
      "Under mpirun sequences and experts are shared out over the ranks, whatever layout trained the model; the figures are the same.\n"
      "Example:\n  mpirun -n 2 pimoe evaluate --checkpoint runs/quickstart --data python=data/quickstart/corpus-validation --data "
      "notes=data/notes");
  command->callback([options, &context] { context.action = [options, &context] { return evaluate(*options, context); }; });
}

}  // namespace pimoe
