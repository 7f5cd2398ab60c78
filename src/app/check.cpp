#include "app/check.h"

#include "app/number_checks.h"
#include "app/pretrained.h"
#include "app/print_json.h"
#include "base/text.h"
#include "base/utf8.h"
#include "parallel/mpi_session.h"
#include "preflight/planned_job.h"
#include "train/idle_keys.h"

#include <CLI/CLI.hpp>

#include <iostream>
#include <limits>
#include <memory>
#include <optional>

namespace pimoe {
namespace {

constexpr int64_t kMostRanks = 1 << 20;

struct CheckOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;
  int64_t ranks = 1;
  int64_t node_ranks = 0;
  std::string device;
  int64_t memory_bytes = 0;  ///< 0: the device's
  std::string skew = "worst";
  std::filesystem::path ceilings;
  bool sweep = false;
  bool json = false;
};

DeviceSpec chosen_device(const std::string& name) {
  if (name.empty()) return device_here();
  if (const auto found = find_device(name)) return *found;
  std::vector<std::string> names;
  for (const DeviceSpec& spec : device_specs()) names.emplace_back(spec.name);
  const std::string nearest = nearest_name(name, names);
  throw UsageError(concat("--device ", name, " is not known", nearest.empty() ? "" : concat(": did you mean ", nearest, "?"), " (",
                          join(names, ", "), ")"));
}

double chosen_skew(const std::string& text) {
  if (text == "balanced") return 1.0;
  if (text == "worst") return kWorstSkew;
  if (const std::string complaint = number_in(1.0, 1e6)(const_cast<std::string&>(text)); !complaint.empty()) {
    throw UsageError(concat("--skew ", text, " must be balanced, worst, or a number from 1 to 1e6"));
  }
  return std::stod(text);
}

/// The configuration; where its tokenizer cannot be read, with a vocabulary that no id exceeds, and nobody may count with.
std::optional<TrainConfig> load(const CheckOptions& options, const IdlePlace& place, Preflight& found, bool& vocabulary_known,
                                Logger& log) {
  const PretrainedDefaults pretrained = hugging_face_defaults(log);
  ConfigSource file;
  std::optional<TrainConfig> config;
  vocabulary_known = found.attempt([&] {
    file = read_config_source(options.config);
    config = load_train_config(file, options.overrides, /*needs_corpus=*/true, pretrained);
  });
  const bool readable = vocabulary_known || found.troubles.back().code == ExitCode::kBadData;
  if (vocabulary_known) found.warnings = idle_keys(file, options.overrides, pretrained, place);
  if (vocabulary_known || !readable) return config;
  TrainConfig keys;
  read_train_config(file, options.overrides, nullptr, keys);
  if (!keys.model.initial_weights.empty()) return config;  // without its folder there is no model to speak of
  std::vector<std::string> overrides = options.overrides;
  overrides.emplace_back("model.vocabulary=1");
  found.warnings = idle_keys(file, overrides, nullptr, place);
  TrainConfig rest = load_train_config(file, overrides);
  rest.model.vocabulary = std::numeric_limits<int64_t>::max();  // no id is too large
  rest.data.tokenizer.clear();                                  // its trouble is told
  return rest;
}

/// Whether the weights that a new run begins with are all there, and of the model.
void look_at_weights(const TrainConfig& config, Preflight& found) {
  const ModelConfig& model = config.model;
  if (model.initial_weights.empty() || found.folder.resumes_at >= 0) return;
  found.attempt([&] { const HfImport weights(model.initial_weights, model.sequence_length); });
}

ExitCode check(const CheckOptions& options, AppContext& context) {
  if (MpiSession::launcher_rank() != 0) return ExitCode::kDone;  // started alone it is the first
  PlannedJob job{.ranks = options.ranks,
                 .node_ranks = options.node_ranks > 0 ? options.node_ranks : usual_node(options.ranks),
                 .device = chosen_device(options.device),
                 .memory_bytes = options.memory_bytes > 0 ? std::optional(options.memory_bytes) : std::nullopt,
                 .skew = chosen_skew(options.skew),
                 .skew_name = options.skew,
                 .ceilings = options.ceilings,
                 .sweep = options.sweep};
  CheckReport report;
  report.config = options.config.string();
  report.ranks = job.ranks;
  const IdlePlace place = {.on_cpu = !job.device.is_gpu, .expert_parallel = job.ranks == 1 ? 1 : 0};
  bool vocabulary_known = false;
  const std::optional<TrainConfig> config = load(options, place, report.found, vocabulary_known, context.log);
  if (config && options.device.empty() && config->mesh.device == DeviceChoice::kCpu) job.device = device_specs().front();
  report.device = job.device;
  if (config) {
    look_at_layout(*config, job, report.found);
    look_at_data(*config, report.found);
    look_at_run_folder(*config, vocabulary_known, report.found);
    look_at_replay(*config, report.found);
    look_at_weights(*config, report.found);
    if (vocabulary_known) foretell(*config, job, report);
  }
  if (options.json) {
    print_json(to_json(report));
  } else {
    std::cout << printable(to_text(report), /*keep_lines=*/true);
  }
  return report.exit_code();
}

std::string device_lines() {
  std::string text;
  for (const DeviceSpec& spec : device_specs()) {
    text += concat("  ", spec.name, std::string(14 - std::string(spec.name).size(), ' '),
                   spec.memory_gib > 0 ? fixed(spec.memory_gib, 1) + " GiB" : "no limit unless --memory says one", "\n");
  }
  return text;
}

}  // namespace

void add_check_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<CheckOptions>();
  CLI::App* command = app.add_subcommand(
      "check", "Tell before a job what `train` would refuse, memory, traffic, time, checkpoints; for any rank count, alone, without a GPU");
  command->add_option("config", options->config, "configuration file (YAML)")->required();
  command->add_option("overrides", options->overrides, "key.path=value, stronger than the file");
  command->add_option("--ranks", options->ranks, "ranks of the job")->check(whole_number_in(1, kMostRanks))->capture_default_str();
  command
      ->add_option("--ranks-per-node", options->node_ranks,
                   "for mesh.expert_parallel auto (default: all, or the most up to 8 that divide --ranks)")
      ->check(whole_number_in(1, kMostRanks));
  command->add_option("--device", options->device, "what a rank computes on (default: this machine's GPU, else cpu); see below");
  command->add_option("--memory", options->memory_bytes, "what a rank has: 85899345920, 80GiB, 64GB (default: the device's)")
      ->transform(size_in(1, std::numeric_limits<int64_t>::max()))
      ->type_name("SIZE");
  command
      ->add_option("--skew", options->skew,
                   "what has to fit: balanced; worst, all tokens on one rank; or the fullest rank's rows over its share at balance, as 2")
      ->type_name("balanced|worst|FACTOR")
      ->capture_default_str();
  command->add_option("--ceilings", options->ceilings, "rates to foretell time with: a document of `pimoe bench ceilings --json FILE`")
      ->type_name("FILE");
  command->add_flag("--sweep", options->sweep, "compare all layouts of these ranks that fit: expert_parallel, micro_batch, recompute");
  command->add_flag("--json", options->json, "print JSON");
  command->footer(concat("Devices, with the memory that their driver counts:\n", device_lines(),
                         "Exit code 0 it fits or no limit is known, 1 it does not, 78 the configuration is wrong, 65 its data.\n"
                         "Example:\n  pimoe check configs/gpu_olmoe_8layer.yaml --ranks 8 --device h100 --skew 2\n"
                         "docs/check.md says what is counted, and how it compares with measurements."));
  command->callback([options, &context] { context.action = [options, &context] { return check(*options, context); }; });
}

}  // namespace pimoe
