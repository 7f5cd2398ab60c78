#include "app/quantize.h"

#include "app/checkpoint_option.h"
#include "app/compression.h"
#include "app/number_checks.h"
#include "app/run_setup.h"
#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/step_folders.h"
#include "compress/calibration.h"
#include "compress/checkpoint_parts.h"
#include "compress/model_measurement.h"
#include "compress/product_samples.h"
#include "compress/quantize.h"
#include "parallel/agreement.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <map>
#include <optional>
#include <utility>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostSamples = int64_t{1} << 40;

const std::map<std::string, QuantizationKind> kKinds = {
    {"weight_only", QuantizationKind::kWeightOnly}, {"dynamic", QuantizationKind::kDynamic}, {"static", QuantizationKind::kStatic}};
const std::map<std::string, bool QuantizationConfig::*> kParts = {{"experts", &QuantizationConfig::experts},
                                                                  {"attention", &QuantizationConfig::attention},
                                                                  {"dense", &QuantizationConfig::dense},
                                                                  {"router", &QuantizationConfig::router},
                                                                  {"head", &QuantizationConfig::head}};

struct QuantizeOptions {
  fs::path path;
  fs::path output;
  std::string kind = "dynamic";
  std::vector<std::string> parts = {"experts", "attention", "dense"};
  fs::path calibration;
  int64_t samples = 1000;
  bool allow_slow = false;
  MeasureOptions measure;
};

QuantizationConfig quantization_of(const QuantizeOptions& options) {
  QuantizationConfig result;
  result.kind = kKinds.at(options.kind);
  result.allow_slow = options.allow_slow;
  for (const auto& [name, part] : kParts) result.*part = std::find(options.parts.begin(), options.parts.end(), name) != options.parts.end();
  return result;
}

/// What does not fit together, before anything is loaded.
void check(const QuantizeOptions& options) {
  const bool is_static = options.kind == "static";
  if (is_static && options.calibration.empty()) {
    throw UsageError("--kind static takes its scales from data: give --calibration PREFIX, best of text like the model's training corpus");
  }
  if (!is_static && !options.calibration.empty()) {
    throw UsageError(concat("--calibration is for --kind static; --kind ", options.kind, " needs no data"));
  }
}

/// @returns the configuration of the model to be  @throws ConfigError
TrainConfig config_of(const QuantizeOptions& options, const LoadedModel& before, const CarriedFiles& carried, const fs::path& output) {
  if (before.config.model.quantization.exists()) {
    throw ConfigError(concat(before.folder.string(), " is quantized already (model.quantization.kind ",
                             before.config.model.quantization.word(), "): quantize the checkpoint that it was made of"));
  }
  TrainConfig config = before.config;
  config.model.quantization = quantization_of(options);
  if (config.model.quantization.head && config.model.tie_embeddings) {
    throw UsageError("--parts has head, which this model has not by itself: it is the embedding (model.tie_embeddings). Leave it out");
  }
  carried.name_in(config, output);
  config.run.directory = output;
  config.checkpoint.resume = "auto";
  return parse_train_config(to_yaml(config), "pimoe quantize");
}

/// What is known of the model as it was, once it is no longer in memory.
struct Before {
  TrainConfig config;  ///< of the model to be
  fs::path checkpoint;
  int64_t step = 0;
  std::string kernel;
  ModelMeasurement measurement;
  ProductSamples samples;
  std::map<std::string, at::Tensor> input_scales;
  std::vector<std::string> remarks;
};

Before look_at(const QuantizeOptions& options, const LoadedModel& loaded, TrainConfig config, const TokenFile& corpus,
               const std::set<std::string>& names, Logger& log) {
  Before before{
      .config = std::move(config),
      .checkpoint = loaded.folder,
      .step = loaded.step,
      .kernel = int8_kernel(quantization_of(options).activations(), loaded.model->dtype(), loaded.mesh->device(), options.allow_slow),
      .measurement = {},
      .samples = ProductSamples(loaded, corpus, names),
      .input_scales = {},
      .remarks = {}};
  if (!options.calibration.empty()) {
    const Calibration calibration(loaded, options.calibration, options.samples, names, log);
    before.input_scales = calibration.scales();
    before.remarks.push_back(concat("calibrated on ", counted(calibration.samples(), "sequence"), " of ", options.calibration.string()));
    if (calibration.samples() < options.samples) before.remarks.back() += concat(": it has no more (--samples ", options.samples, ")");
    if (calibration.unseen() > 0) {
      before.remarks.push_back(
          concat(counted(calibration.unseen(), "expert matrix"), " saw no row in calibration, and took the scale of the layer's others"));
    }
  }
  return before;
}

/// Loads it with gates where int8 matrices have them: behind the experts' products, so that rows are seen as they will be rounded.
LoadedModel load_to_look_at(const fs::path& path, AppContext& context) {
  MoeMemory memory = MoeMemory::kFast;
  LoadedModel loaded = load_model(path, context, ModelSpread::kShared,
                                  [&](TrainConfig& config) { memory = std::exchange(config.model.moe.memory, MoeMemory::kFast); });
  loaded.config.model.moe.memory = memory;  // what is written has the run's own
  return loaded;
}

std::string change_of(const QuantizeOptions& options) { return concat("int8 ", options.kind, ": ", join(options.parts, ", ")); }

CompressionReport report_of(const QuantizeOptions& options, const Before& before, const LoadedModel& after,
                            const ModelMeasurement& measured, const fs::path& corpus) {
  CompressionReport report{.checkpoint = before.checkpoint.string(),
                           .output = without_slash(options.output).string(),
                           .change = change_of(options),
                           .kernel = before.kernel,
                           .step = before.step,
                           .corpus = corpus.string(),
                           .tokens = measured.tokens,
                           .ranks = after.mesh->size(),
                           .size_before = size_of(before.checkpoint, before.config.model),
                           .size_after = size_of(after.folder, before.config.model),
                           .loss_before = before.measurement.loss(),
                           .loss_after = measured.loss(),
                           .speed_before = before.measurement.speed,
                           .speed_after = measured.speed,
                           .layers = compare_layers(after, before.measurement, measured),
                           .remarks = before.remarks};
  before.samples.add_errors(after, report.layers);
  return report;
}

ExitCode quantize(const QuantizeOptions& options, AppContext& context) {
  check(options);
  const fs::path output = without_slash(options.output);
  const MpiSession& session = context.mpi();
  std::optional<LoadedModel> loaded = load_to_look_at(options.path, context);
  const bool is_first = loaded->mesh->rank() == 0;
  const std::unique_ptr<HostCommunicator> world = session.world();
  const CarriedFiles carried(loaded->folder, loaded->config, *world);
  const TrainConfig config = config_of(options, *loaded, carried, output);
  const ProcessMesh alone = one_rank_mesh(config.mesh, session, config.model.moe.common_divisor());
  const std::set<std::string> names = quantized_matrices(config.model, alone);
  if (names.empty()) throw ConfigError(concat("the model has none of --parts ", join(options.parts, ",")));
  const fs::path corpus_path = measured_corpus(options.measure, loaded->config);
  const TokenFile corpus(corpus_path);

  CompressedFolder folder(output, *world);
  Before before = look_at(options, *loaded, config, corpus, names, context.log);
  if (config.model.moe.memory != loaded->model->config().moe.memory) {
    loaded.reset();  // one at a time
    loaded.emplace(load_model(before.checkpoint, context, ModelSpread::kShared));
  }
  before.measurement = measure_model(*loaded, corpus, measured_part(options.measure, config), before.checkpoint.string(), context.log);
  loaded.reset();

  const fs::path checkpoint = folder.unfinished / "checkpoints" / step_name(before.step);
  do_together(*world, [&] {
    if (!is_first) return;
    write_quantized(before.checkpoint, checkpoint, config, alone, before.input_scales, context.log);
    carried.copy_into(folder.unfinished);
  });
  const LoadedModel after = load_result(checkpoint, context);
  add_proof(checkpoint, after);
  const ModelMeasurement measured = measure_model(after, corpus, measured_part(options.measure, config), output.string(), context.log);
  const CompressionReport report = report_of(options, before, after, measured, corpus_path);
  return conclude(report, options.measure, folder, *after.mesh, nlohmann::ordered_json::object(), "", context.log);
}

}  // namespace

void add_quantize_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<QuantizeOptions>();
  CLI::App* command = app.add_subcommand("quantize", "Make a model's matrices int8: smaller, faster, for generate, evaluate and serve");
  add_checkpoint_option(*command, "path,--checkpoint", options->path);
  command->add_option("--output", options->output, "run folder to make: checkpoints/step-*")
      ->required()
      ->type_name("PATH")
      ->check(not_empty());
  std::vector<std::string> kinds, parts;
  for (const auto& [name, kind] : kKinds) kinds.push_back(name);
  for (const auto& [name, part] : kParts) parts.push_back(name);
  command
      ->add_option(
          "--kind", options->kind,
          "weight_only: int8 weights, products in the model's precision; dynamic: products of int8 numbers, each row with a scale of "
          "its own; static: with scales from --calibration")
      ->check(CLI::IsMember(kinds))
      ->type_name("KIND")
      ->capture_default_str();
  command
      ->add_option("--parts", options->parts,
                   "what becomes int8, of experts, attention, dense (dense layers, shared and fallback experts), router, head")
      ->delimiter(',')
      ->check(CLI::IsMember(parts))
      ->type_name("PART,...")
      ->capture_default_str();
  command->add_option("--calibration", options->calibration, "corpus that --kind static takes its scales from")->type_name("PREFIX");
  command->add_option("--samples", options->samples, "sequences of model.sequence_length tokens of it, from its beginning")
      ->check(whole_number_in(1, kMostSamples))
      ->capture_default_str();
  add_measure_options(*command, options->measure);
  command->add_flag("--allow-slow", options->allow_slow, "plain loops where the machine has no int8 products; without it an error");
  command->footer(
      "Router and head stay as they are unless --parts names them. What is written is a checkpoint like others, for generate, serve and "
      "evaluate;\n"
      "it cannot be trained on. Under mpirun sequences and experts are shared out over the ranks.\n"
      "Example:\n  pimoe quantize runs/quickstart --output runs/quickstart-int8 --max-loss-increase 0.005\n"
      "  pimoe quantize runs/quickstart --output runs/static --kind static --calibration data/quickstart/corpus --samples 200");
  command->callback([options, &context] { context.action = [options, &context] { return quantize(*options, context); }; });
}

}  // namespace pimoe
