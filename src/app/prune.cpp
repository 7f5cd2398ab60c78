#include "app/prune.h"

#include "app/checkpoint_option.h"
#include "app/compression.h"
#include "app/number_checks.h"
#include "app/run_setup.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/number_text.h"
#include "base/text.h"
#include "checkpoint/manifest.h"
#include "checkpoint/step_folders.h"
#include "compress/checkpoint_parts.h"
#include "compress/expert_importance.h"
#include "compress/layer_samples.h"
#include "compress/model_measurement.h"
#include "compress/prune.h"
#include "compress/pruning_plan.h"
#include "data/sample_blend.h"
#include "parallel/agreement.h"
#include "train/router_state.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/tensor.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostSamples = int64_t{1} << 40;
constexpr int64_t kLargestMultiple = 1 << 20;

const std::map<std::string, PruneKind> kKinds = {
    {"experts", PruneKind::kExperts}, {"channels", PruneKind::kChannels}, {"merge", PruneKind::kMerge}};

struct PruneOptions {
  fs::path path;
  fs::path output;
  std::string kind = "experts";
  double ratio = 0.3;
  int64_t multiple = 0;
  fs::path calibration;
  int64_t samples = 256;
  MeasureOptions measure;

  PruneChoice choice() const { return {.kind = kKinds.at(kind), .ratio = ratio, .multiple = multiple}; }
};

/// Text like what the model was trained on: of a blend the corpus with the largest weight.
fs::path calibration_corpus(const PruneOptions& options, const TrainConfig& config) {
  if (!options.calibration.empty()) return options.calibration;
  const std::vector<BlendedCorpus> corpora = config.data.training();
  const auto heaviest = std::max_element(corpora.begin(), corpora.end(), [](const auto& a, const auto& b) { return a.weight < b.weight; });
  if (heaviest != corpora.end()) return heaviest->prefix;
  if (!config.data.validation.empty()) return config.data.validation;
  throw UsageError(
      "the checkpoint's configuration names no corpus: give --calibration PREFIX, best of text like the model's training corpus");
}

/// The configuration of the model to be, as its run folder has it. @throws ConfigError
TrainConfig config_of(const PruneOptions& options, TrainConfig before, const fs::path& checkpoint, const CarriedFiles& carried,
                      const fs::path& output) {
  // A temperature that adaptive control had come to is a part of the model.
  before.model.moe.router.temperature = temperature_of(before, read_manifest(checkpoint).numbers);
  TrainConfig config = smaller_config(std::move(before), options.choice());
  carried.name_in(config, output);
  config.run.directory = output;
  config.checkpoint.resume = "auto";
  return parse_train_config(to_yaml(config), "pimoe prune");
}

/// What is known of the model as it was, once it is no longer in memory.
struct Before {
  TrainConfig config;
  TrainConfig smaller;
  std::optional<CarriedFiles> carried;
  fs::path checkpoint;
  int64_t step = 0;
  fs::path corpus;
  fs::path calibration;
  int64_t samples = 0;
  std::vector<LayerImportance> importance;
  std::vector<at::Tensor> layer_inputs;
  ModelMeasurement measurement;
  std::optional<LayerSamples> outputs;
};

/// Refuses what cannot be pruned before a folder is made. Collective
Before look_at(const PruneOptions& options, const fs::path& output, AppContext& context) {
  Before before;
  {
    MoeConfig own;
    const auto lean = [&](TrainConfig& config) {
      own = config.model.moe;
      config.model.moe.memory = MoeMemory::kLean;
      config.model.moe.checks = MoeValidate::kOff;  // full computes every row another time, without its gate
    };
    const LoadedModel loaded = load_model(options.path, context, ModelSpread::kShared, lean);
    before.config = loaded.config;
    before.config.model.moe = own;
    before.checkpoint = loaded.folder;
    before.step = loaded.step;
    before.carried.emplace(loaded.folder, before.config, loaded.mesh->control());
    do_together(loaded.mesh->control(),
                [&] { before.smaller = config_of(options, before.config, loaded.folder, *before.carried, output); });
    before.corpus = measured_corpus(options.measure, before.config);
    before.calibration = calibration_corpus(options, before.config);
    const TokenFile corpus(before.calibration);
    MeasuredImportance measured(loaded, corpus, options.samples, context.log);
    before.samples = measured.samples;
    before.importance = std::move(measured.layers);
    if (options.choice().kind == PruneKind::kMerge) before.layer_inputs = sampled_layer_inputs(loaded, corpus, options.samples);
  }
  const LoadedModel loaded = load_model(before.checkpoint, context, ModelSpread::kShared);
  const TokenFile corpus(before.corpus);
  before.measurement = measure_model(loaded, corpus, measured_part(options.measure, before.config), loaded.folder.string(), context.log);
  before.outputs.emplace(loaded, corpus);
  return before;
}

/// All of the run folder. On rank 0 alone
std::vector<LayerPlan> write_run(const PruneOptions& options, const Before& before, const fs::path& unfinished, const ProcessMesh& alone,
                                 Logger& log) {
  std::vector<LayerPlan> plans = plan_pruning(before.checkpoint, options.choice().kind, before.config.model, before.smaller.model,
                                              before.importance, before.layer_inputs, log);
  write_pruned(before.checkpoint, unfinished / "checkpoints" / step_name(0), before.config, before.smaller, alone, plans, log);
  const std::string yaml = to_yaml(before.smaller);
  write_durably(unfinished / "config.yaml", yaml.data(), yaml.size());
  before.carried->copy_into(unfinished);
  return plans;
}

/// The experts that tokens had, by the numbers that these have now; -1: it is gone. So that what stays and serves the same tokens counts as unchanged.
void renumber(ModelMeasurement& measurement, const at::Tensor& numbers) {
  for (size_t layer = 0; layer < measurement.experts.size(); ++layer) {
    at::Tensor& experts = measurement.experts[layer];
    const at::Tensor now = numbers[static_cast<int64_t>(layer)].index_select(0, experts.flatten().to(at::kLong)).view_as(experts);
    experts = std::get<0>(at::sort(now.to(experts.scalar_type()), 1));
  }
}

/// [layers, E] int64 on every rank: each expert's number in the smaller model. Collective
at::Tensor new_numbers(const std::vector<LayerPlan>& plans, const ModelConfig& before, const HostCommunicator& ranks) {
  at::Tensor numbers = at::empty({before.moe_layers(), before.moe.experts}, at::kLong);
  for (size_t layer = 0; layer < plans.size(); ++layer) {
    numbers[static_cast<int64_t>(layer)].copy_(at::tensor(plans[layer].recipe.new_numbers(before.moe.experts), at::kLong));
  }
  ranks.broadcast(numbers, 0);
  return numbers;
}

std::string change_of(const PruneOptions& options, const MoeConfig& before, const MoeConfig& after) {
  switch (options.choice().kind) {
    case PruneKind::kExperts: return concat(before.experts - after.experts, " of ", before.experts, " experts gone in each layer");
    case PruneKind::kMerge: return concat(before.experts, " experts merged into ", after.experts, " in each layer");
    case PruneKind::kChannels: break;
  }
  std::vector<std::string> widths;
  const std::vector<ExpertGroupConfig> was = before.expert_groups(), is = after.expert_groups();
  for (size_t group = 0; group < was.size(); ++group) {
    widths.push_back(concat(was[group].width - is[group].width, " of ", was[group].width,
                            was[group].name.empty() ? "" : concat(" (", was[group].name, ")")));
  }
  return concat(join(widths, ", "), " channels gone in each expert");
}

std::vector<std::string> remarks_of(const PruneOptions& options, const Before& before) {
  std::vector<std::string> remarks = {concat("calibrated on ", counted(before.samples, "sequence"), " of ", before.calibration.string())};
  if (before.samples < options.samples) remarks.back() += concat(": it has no more (--samples ", options.samples, ")");
  int64_t unseen = 0;
  for (const LayerImportance& layer : before.importance) unseen += (layer.loads == 0).sum().item<int64_t>();
  if (unseen > 0) remarks.push_back(concat(counted(unseen, "expert"), " saw no token in calibration"));
  if (before.config.mesh.expert_parallel != before.smaller.mesh.expert_parallel) {
    remarks.push_back(concat("mesh.expert_parallel is auto now: ", before.config.mesh.expert_parallel, " does not divide ",
                             before.smaller.model.moe.experts, " experts; --multiple ", before.config.mesh.expert_parallel,
                             " would keep it"));
  }
  return remarks;
}

/// "0 1 2+5 3": what each expert is made of.
std::string experts_text(const LayerRecipe& recipe) {
  std::vector<std::string> experts;
  for (const auto& parts : recipe.experts) {
    std::vector<std::string> names;
    for (const ExpertPart& part : parts) names.push_back(std::to_string(part.expert));
    experts.push_back(join(names, "+"));
  }
  return join(experts, " ");
}

/// What the report does not have: what went, of each layer.
struct Removed {
  nlohmann::ordered_json json;
  std::string text;
};

Removed removed_of(const PruneOptions& options, const Before& before, const std::vector<LayerPlan>& plans, const fs::path& output) {
  const MoeConfig& was = before.config.model.moe;
  const MoeConfig& is = before.smaller.model.moe;
  const bool narrower = options.choice().kind == PruneKind::kChannels;
  const int64_t first = before.config.model.layers - before.config.model.moe_layers();
  Removed removed;
  removed.text = narrower ? "\nimportance lost with the channels that are gone:\n"
                 : options.choice().kind == PruneKind::kMerge
                     ? "\nexperts by what they are made of, and the importance of those that were merged into others:\n"
                     : "\nexperts that stay, and the importance lost with those that are gone:\n";
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (size_t index = 0; index < plans.size(); ++index) {
    const LayerPlan& plan = plans[index];
    const int64_t layer = first + static_cast<int64_t>(index);
    nlohmann::ordered_json experts = nlohmann::ordered_json::array();
    for (const auto& parts : plan.recipe.experts) {
      nlohmann::ordered_json numbers = nlohmann::ordered_json::array();
      for (const ExpertPart& part : parts) numbers.push_back(part.expert);
      experts.push_back(numbers);
    }
    layers.push_back({{"layer", layer}, {"importance_lost", plan.lost}, {"experts", experts}});
    removed.text +=
        concat("layer ", layer, ": ", narrower ? "" : concat(experts_text(plan.recipe), ";  "), fixed(100 * plan.lost, 1), " %\n");
  }
  nlohmann::ordered_json widths = nlohmann::ordered_json::array();
  const std::vector<ExpertGroupConfig> groups_before = was.expert_groups(), groups_after = is.expert_groups();
  for (size_t group = 0; group < groups_before.size(); ++group) widths.push_back(groups_before[group].width - groups_after[group].width);
  removed.json = {{"kind", options.kind},
                  {"ratio", options.ratio},
                  {"config", (output / "config.yaml").string()},
                  {"calibration", before.calibration.string()},
                  {"samples", before.samples},
                  {"experts_removed_in_each_layer", was.experts - is.experts},
                  {"channels_removed_in_each_expert", widths},
                  {"plan", layers}};
  removed.text += concat("\n", (output / "config.yaml").string(), ": to train on\n");
  return removed;
}

ExitCode prune(const PruneOptions& options, AppContext& context) {
  const fs::path output = without_slash(options.output);
  const MpiSession& session = context.mpi();
  const std::unique_ptr<HostCommunicator> world = session.world();
  CompressedFolder folder(output, *world);
  Before before = look_at(options, output, context);
  const ProcessMesh alone = one_rank_mesh(before.smaller.mesh, session, before.smaller.model.moe.common_divisor());

  std::vector<LayerPlan> plans;
  do_together(*world, [&] {
    if (world->rank() == 0) plans = write_run(options, before, folder.unfinished, alone, context.log);
  });
  const at::Tensor numbers = new_numbers(plans, before.config.model, *world);
  const fs::path checkpoint = folder.unfinished / "checkpoints" / step_name(0);
  const LoadedModel after = load_result(checkpoint, context);
  add_proof(checkpoint, after);
  const ModelMeasurement measured =
      measure_model(after, TokenFile(before.corpus), measured_part(options.measure, before.smaller), output.string(), context.log);
  const bool choose_tokens = before.config.model.moe.router_traits().by_expert;
  if (!choose_tokens) renumber(before.measurement, numbers);
  CompressionReport report{.checkpoint = before.checkpoint.string(),
                           .output = output.string(),
                           .change = change_of(options, before.config.model.moe, before.smaller.model.moe),
                           .kernel = "as the model had it: no special one is needed",
                           .step = before.step,
                           .corpus = before.corpus.string(),
                           .tokens = measured.tokens,
                           .ranks = after.mesh->size(),
                           .size_before = size_of(before.checkpoint, before.config.model),
                           .size_after = size_of(after.folder, before.smaller.model),
                           .loss_before = before.measurement.loss(),
                           .loss_after = measured.loss(),
                           .speed_before = before.measurement.speed,
                           .speed_after = measured.speed,
                           .layers = compare_layers(after, before.measurement, measured),
                           .remarks = remarks_of(options, before)};
  if (choose_tokens) {
    for (LayerChange& layer : report.layers) layer.agreement.reset();  // experts choose: each of them has tokens
  }
  before.outputs->add_errors(after, report.layers);
  const Removed removed = removed_of(options, before, plans, output);
  return conclude(report, options.measure, folder, *after.mesh, removed.json, removed.text, context.log);
}

}  // namespace

void add_prune_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<PruneOptions>();
  CLI::App* command = app.add_subcommand("prune", "Take experts, or channels of experts, out of a model: smaller, and to be trained on");
  add_checkpoint_option(*command, "path,--checkpoint", options->path);
  command->add_option("--output", options->output, "run folder to make: config.yaml, checkpoints/step-00000000")
      ->required()
      ->type_name("PATH")
      ->check(not_empty());
  std::vector<std::string> kinds;
  for (const auto& [name, kind] : kKinds) kinds.push_back(name);
  command
      ->add_option(
          "--kind", options->kind,
          "experts: whole ones with their router rows; channels: each expert becomes narrower; merge: experts that are alike become one")
      ->check(CLI::IsMember(kinds))
      ->type_name("KIND")
      ->capture_default_str();
  command->add_option("--ratio", options->ratio, "share of the experts, or of each expert's channels, that goes, above 0 and below 1")
      ->check(number_in(1e-6, 1.0 - 1e-6))
      ->type_name("SHARE")
      ->capture_default_str();
  command
      ->add_option("--multiple", options->multiple,
                   "what stays is a multiple of it (default: experts of mesh.expert_parallel, channels of a power of two up to 64)")
      ->check(whole_number_in(1, kLargestMultiple));
  command->add_option("--calibration", options->calibration, "corpus on which experts are measured (default: the run's training corpus)")
      ->type_name("PREFIX");
  command->add_option("--samples", options->samples, "sequences of model.sequence_length tokens of it, from its beginning")
      ->check(whole_number_in(1, kMostSamples))
      ->capture_default_str();
  add_measure_options(*command, options->measure);
  command->footer(
      "What is written is a run that has not taken a step, for generate, evaluate, export, quantize, and to train on. Under mpirun\n"
      "sequences and experts are shared out over the ranks.\n"
      "Example:\n  pimoe prune runs/quickstart --output runs/pruned --ratio 0.3 --max-loss-increase 0.2\n"
      "  pimoe prune runs/quickstart --output runs/narrow --kind channels\n"
      "  mpirun -n 2 pimoe train runs/pruned/config.yaml train.steps=100");
  command->callback([options, &context] { context.action = [options, &context] { return prune(*options, context); }; });
}

}  // namespace pimoe
