#include "app/check.h"

#include "app/number_checks.h"
#include "app/print_json.h"
#include "base/text.h"
#include "base/utf8.h"
#include "parallel/mpi_communicator.h"
#include "preflight/check_report.h"
#include "train/idle_keys.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <iostream>
#include <limits>
#include <memory>
#include <optional>

namespace pimoe {
namespace {

/// On a GPU: context, kernels of the libraries, NCCL's channels, and what the allocator cannot use of what it holds. Not a forecast.
constexpr int64_t kGpuOverhead = int64_t{2} << 30;
constexpr int64_t kMostRanks = 1 << 20;
constexpr int64_t kUsualNode = 8;

struct CheckOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;
  int64_t ranks = 1;
  int64_t node_ranks = 0;
  std::string device;
  std::string memory;
  std::string skew = "worst";
  bool json = false;
};

/// Ranks of a node where nobody says: all of them, or where there are more than 8 the most that share them out evenly.
int64_t usual_node(int64_t ranks) {
  int64_t node = std::min(ranks, kUsualNode);
  while (ranks % node != 0) --node;
  return node;
}

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
std::optional<TrainConfig> load(const CheckOptions& options, Preflight& found, bool& vocabulary_known) {
  ConfigSource file;
  std::optional<TrainConfig> config;
  vocabulary_known = found.attempt([&] {
    file = read_config_source(options.config);
    config = load_train_config(file, options.overrides);
  });
  const bool readable = vocabulary_known || found.troubles.back().code == ExitCode::kBadData;
  if (readable) found.warnings = idle_keys(file, options.overrides);
  if (vocabulary_known || !readable) return config;
  std::vector<std::string> overrides = options.overrides;
  overrides.emplace_back("model.vocabulary=1");
  TrainConfig rest = load_train_config(file, overrides);
  rest.model.vocabulary = std::numeric_limits<int64_t>::max();  // no id is too large
  rest.data.tokenizer.clear();                                  // its trouble is told
  return rest;
}

/// Rules between the configuration and the machine that ProcessMesh would see.
void look_at_layout(const TrainConfig& config, const CheckOptions& options, const DeviceSpec& device, Preflight& found) {
  if (config.mesh.device == DeviceChoice::kCuda && !device.is_gpu) {
    found.troubles.push_back({ExitCode::kBadConfig, "mesh.device (cuda) needs a GPU; this check is for --device cpu"});
  }
  if (config.mesh.transport == Transport::kNccl && (!device.is_gpu || config.mesh.device == DeviceChoice::kCpu)) {
    found.troubles.push_back({ExitCode::kBadConfig, "mesh.transport (nccl) needs mesh.device cuda; this run's device is cpu"});
  }
  if (options.ranks % options.node_ranks != 0) {
    found.warnings.push_back(concat("--ranks-per-node (", options.node_ranks, ") does not divide --ranks (", options.ranks,
                                    "): mesh.expert_parallel=auto goes by what divides the ranks of every node"));
  }
  if (config.train.global_batch < options.ranks) {
    found.warnings.push_back(concat("train.global_batch (", config.train.global_batch, ") is below the ", options.ranks,
                                    " ranks: ", options.ranks - config.train.global_batch, " of them have no sequence, and only wait"));
  }
  for (const std::string& doubt : doubts_about(config)) found.warnings.push_back(doubt);
}

/// @returns checkpoints that a run writes
int64_t saves_of(const TrainConfig& config) {
  const int64_t every = config.checkpoint.every_steps;
  const int64_t due = every > 0 ? config.train.steps / every : 0;
  const bool last_is_due = every > 0 && config.train.steps % every == 0;
  return config.checkpoint.at_end ? due + (last_is_due ? 0 : 1) : due - (last_is_due ? 1 : 0);
}

void forecast(const TrainConfig& config, const CheckOptions& options, CheckReport& report) {
  const bool on_gpu = report.device.is_gpu;
  ForecastPlace place{.ranks = options.ranks, .node_ranks = options.node_ranks, .on_gpu = on_gpu};
  place.dtype = config.train.precision != Precision::kAuto ? compute_dtype(config.train.precision, c10::DeviceType::CPU)
                : report.device.fast_bfloat16              ? at::kBFloat16
                                                           : at::kFloat;
  report.precision = dtype_name(place.dtype);
  report.has_experts = config.model.moe_layers() > 0;
  if (!report.found.attempt([&] { report.forecast.emplace(config, place); })) return;
  if (!options.memory.empty()) {
    const auto bytes = parse_bytes(options.memory);
    if (!bytes) throw UsageError(concat("--memory ", options.memory, " must be a size: 85899345920, 80GiB, 64GB"));
    report.limit_bytes = *bytes;
  } else {
    report.limit_bytes = static_cast<int64_t>(report.device.memory_gib * static_cast<double>(int64_t{1} << 30));
  }
  report.overhead_bytes = on_gpu ? kGpuOverhead : 0;

  const double wanted = chosen_skew(options.skew);
  std::vector<std::pair<std::string, double>> columns = {{"at balance", 1.0}, {"at worst skew", kWorstSkew}};
  if (wanted != 1.0 && wanted != kWorstSkew) columns.insert(columns.begin() + 1, {concat("at skew ", options.skew), wanted});
  const std::vector<double> bear = report.has_experts ? skews_to_bear(config.model.moe, wanted) : std::vector{wanted};
  if (bear.size() > 1 && bear[1] > 1.0) columns.insert(columns.begin() + 1, {"in a full round", bear[1]});
  report.any_skew = bear.size() > 1;
  for (const auto& [name, skew] : columns) {
    report.skews.push_back({name, skew, report.forecast->memory(skew), report.has_experts ? report.forecast->rows(skew) : RoutedRows{}});
  }
  std::optional<size_t> fullest;  // of the columns that have to fit
  for (size_t column = 0; column < report.skews.size(); ++column) {
    if (std::find(bear.begin(), bear.end(), report.skews[column].skew) == bear.end()) continue;
    if (!fullest || report.peak(column) > report.peak(*fullest)) fullest = column;
  }
  report.judged = fullest.value();

  report.saves = saves_of(config);
  // One more than is kept while the next is written.
  const int64_t most =
      std::min(report.saves, config.checkpoint.keep + 1 - std::min(config.checkpoint.keep, report.found.folder.checkpoints));
  report.disk_bytes = std::max<int64_t>(0, most) * report.forecast->checkpoint_bytes();
  if (!report.memory_fits()) report.remedies = remedies(config, place, wanted);
}

ExitCode check(CheckOptions options, AppContext& /*context*/) {
  if (MpiSession::launcher_rank() != 0) return ExitCode::kDone;  // started alone it is the first
  if (options.node_ranks == 0) options.node_ranks = usual_node(options.ranks);
  CheckReport report;
  report.config = options.config.string();
  report.ranks = options.ranks;
  report.device = chosen_device(options.device);
  bool vocabulary_known = false;
  std::optional<TrainConfig> config = load(options, report.found, vocabulary_known);
  if (config) {
    if (options.device.empty() && config->mesh.device == DeviceChoice::kCpu) report.device = device_specs().front();
    look_at_layout(*config, options, report.device, report.found);
    look_at_data(*config, report.found);
    look_at_run_folder(*config, vocabulary_known, report.found);
    look_at_replay(*config, report.found);
    if (vocabulary_known) forecast(*config, options, report);
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
      "check", "Before a job: what `train` would refuse, memory, traffic, checkpoints. For any rank count, started alone, without a GPU");
  command->add_option("config", options->config, "configuration file (YAML)")->required();
  command->add_option("overrides", options->overrides, "key.path=value, stronger than the file");
  command->add_option("--ranks", options->ranks, "ranks of the job")->check(whole_number_in(1, kMostRanks))->capture_default_str();
  command
      ->add_option("--ranks-per-node", options->node_ranks,
                   "for mesh.expert_parallel auto (default: all, or the most up to 8 that divide --ranks)")
      ->check(whole_number_in(1, kMostRanks));
  command->add_option("--device", options->device, "what a rank computes on (default: this machine's GPU, else cpu); see below");
  command->add_option("--memory", options->memory, "what a rank has: 85899345920, 80GiB, 64GB (default: the device's)")->type_name("SIZE");
  command
      ->add_option("--skew", options->skew,
                   "what has to fit: balanced; worst, all tokens on one rank; or the fullest rank's rows over its share at balance, as 2")
      ->type_name("balanced|worst|FACTOR")
      ->capture_default_str();
  command->add_flag("--json", options->json, "print JSON");
  command->footer(concat("Devices, with the memory that their driver counts:\n", device_lines(),
                         "Exit code 0 it fits or no limit is known, 1 it does not, 78 the configuration is wrong, 65 its data.\n"
                         "Example:\n  pimoe check configs/gpu_olmoe_8layer.yaml --ranks 8 --device h100 --skew 2\n"
                         "docs/check.md says what is counted, and how it compares with measurements."));
  command->callback([options, &context] { context.action = [options, &context] { return check(*options, context); }; });
}

}  // namespace pimoe
