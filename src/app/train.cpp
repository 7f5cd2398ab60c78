#include "app/train.h"

#include "app/pretrained.h"
#include "app/run_setup.h"
#include "base/file_io.h"
#include "base/progress.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "parallel/device.h"
#include "parallel/watchdog.h"
#include "preflight/memory_advice.h"
#include "train/idle_keys.h"
#include "train/presets.h"
#include "train/run_lock.h"
#include "train/stop_request.h"
#include "train/trainer.h"

#include <CLI/CLI.hpp>

#include <csignal>
#include <iostream>

namespace pimoe {
namespace {

struct TrainOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;
  bool print_config = false;
  std::string profile;
};

/// What may take long without a sign of progress.
std::unique_ptr<Trainer> set_up(const TrainConfig& config, const ProcessMesh& mesh, Logger& log, const StopRequest* stop, RunLock& lock) {
  const ProgressPhase phase("setup");
  const PatientOperation building;
  keep_companions(config, mesh.control());
  return std::make_unique<Trainer>(config, mesh, log, stop, &lock, initial_weights_of(config, mesh, log));
}

/// What is in the place of the run folder, or above it, is named: what fails to be made inside would be a riddle.
void require_folder_or_nothing(const std::filesystem::path& folder) {
  std::error_code ignored;
  for (std::filesystem::path place = folder; !place.empty(); place = place.parent_path()) {
    const std::string named = concat("run.directory (", folder.string(), "): ", place.string());
    const std::filesystem::file_status found = std::filesystem::status(place, ignored);  // once: other ranks make it meanwhile
    if (std::filesystem::is_directory(found) || place == place.parent_path()) return;
    if (std::filesystem::exists(found)) throw ConfigError(concat(named, " is there, and is no folder"));
    if (std::filesystem::is_symlink(place, ignored)) {
      throw ConfigError(concat(named, " is a link to ", std::filesystem::read_symlink(place, ignored).string(), ", which is not there"));
    }
  }
}

/// What is said, and on a GPU kept, where a run has no memory left.
void prepare_for_lack_of_memory(const TrainConfig& config, const RunSetup& setup, AppContext& context) {
  context.memory_advice = [config, place = setup.place] { return memory_advice(config, place); };
  const std::filesystem::path file =
      RunPaths(config.run.directory).profile() / concat("rank-", padded(setup.mesh.rank(), 4), "-out-of-memory.pickle");
  observe_out_of_memory([file, &log = context.log] {
    try {
      std::filesystem::create_directories(file.parent_path());
      replace_file(file, allocations_as_pickle());
      log.warning(concat("out of memory: what the GPU held is in ", file.string(), ", for docs.pytorch.org/memory_viz"));
    } catch (const std::exception&) {  // the error that follows says what matters
    }
  });
}

/// @returns a line for each preset, for --help.
std::string preset_lines() {
  std::string lines;
  for (const std::string& name : preset_names()) {
    const Preset preset = *find_preset(name);
    lines += concat("  ", name, std::string(12 - std::min<size_t>(name.size(), 11), ' '), preset.name == name ? "" : "= ",
                    preset.name == name ? preset.purpose() : preset.name, "\n");
  }
  return lines;
}

ExitCode train(const TrainOptions& options, AppContext& context) {
  Logger& log = context.log;
  std::optional<ProfileRequest> profile;
  if (!options.profile.empty()) profile = ProfileRequest::parse(options.profile);
  const ConfigSource file = read_config_source(options.config);
  const PretrainedDefaults pretrained = hugging_face_defaults(log);
  TrainConfig config = load_train_config(file, options.overrides, /*needs_corpus=*/true, pretrained);
  if (options.print_config) {
    if (MpiSession::launcher_rank() == 0) std::cout << to_yaml(config);
    return ExitCode::kDone;
  }
  // Who reads what is printed may leave (a pager, tee): the run's own log goes on, and so does the run.
  std::signal(SIGPIPE, SIG_IGN);
  const ProgressPhase between("step");  // what no other phase names
  const RunSetup setup(config, context);
  const ProcessMesh& mesh = setup.mesh;
  const RunPaths paths(config.run.directory);
  require_folder_or_nothing(config.run.directory);
  if (config.run.hang_limit > 0 && mesh.size() > 1) {
    context.watchdog = std::make_shared<Watchdog>(mesh.control(), config.run.hang_limit, paths.hang(), log, Watchdog::Folder::kNotYet);
  }
  RunLock lock(config.run.directory, mesh, log);  // before anything is written: the files may be another job's
  if (context.watchdog) context.watchdog->own_folder();
  log.open_file(paths.log() / concat("rank-", padded(mesh.rank(), 4), ".log"));
  prepare_for_lack_of_memory(config, setup, context);
  if (mesh.rank() == 0) {
    const IdlePlace place = {.on_cpu = mesh.device().is_cpu(), .expert_parallel = mesh.expert_parallel()};
    for (const std::string& idle : idle_keys(file, options.overrides, pretrained, place)) log.warning(idle);
  }
  if (context.stop != nullptr && context.stop->was_blocked() && mesh.rank() == 0) {
    log.warning(
        "SIGUSR1 was blocked by what started this process, and is let through here; a launcher that inherited the same may not pass it on");
  }
  if (context.stop != nullptr && mesh.rank() == 0 && keeps_sigusr1(parent_process())) {
    log.warning(
        "mpirun keeps SIGUSR1 to itself here, because hwloc has loaded PoCL and LLVM into it: export HWLOC_COMPONENTS=-opencl before it, "
        "or ask this run "
        "to save and leave by SIGUSR2");
  }
  if (context.stop != nullptr) context.stop->raise_after(config.run.seconds_until_leaving(), config.run.walltime_margin);
  const std::unique_ptr<Trainer> trainer = set_up(config, mesh, log, context.stop, lock);
  if (profile) trainer->profile(*profile);
  switch (trainer->run()) {
    case TrainOutcome::kComplete: return ExitCode::kDone;
    case TrainOutcome::kStopped: return ExitCode::kRequeue;
    case TrainOutcome::kStoppedByAlert: return ExitCode::kCheckSaysNo;
  }
  return ExitCode::kInternal;
}

}  // namespace

std::string override_instead_of(const std::string& option, const std::string& value) {
  const size_t equals = option.find('=');
  std::string name = option.substr(2, equals == std::string::npos ? equals : equals - 2);
  std::replace(name.begin(), name.end(), '-', '_');
  std::vector<std::string> parents;
  std::vector<std::string> found;
  for (const std::string& line : split(to_yaml(TrainConfig()), '\n')) {
    const size_t indent = std::min(line.size(), line.find_first_not_of(' '));
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    parents.resize(indent / 2);
    parents.push_back(line.substr(indent, colon - indent));
    const std::string path = join(parents, ".");
    const bool is_group = colon + 1 == line.size();
    if (!is_group && (parents.back() == name || path == name)) found.push_back(path);
  }
  const std::string given = equals == std::string::npos ? value : option.substr(equals + 1);
  for (std::string& path : found) path += "=" + (given.empty() ? "VALUE" : given);
  return join(found, " or ");
}

void add_train_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Train a model; under mpirun or srun on all their ranks. Resumes where the run stopped");
  command->add_option("config", options->config, "configuration file (YAML)")->required();
  command->add_option("overrides", options->overrides, "key.path=value, stronger than the file");
  command->add_flag("--print-config", options->print_config,
                    "print every key with its value and what it means, as the configuration resolves them, and leave");
  command->add_option("--profile", options->profile,
                      "steps=FIRST:LAST: a Chrome trace of each rank of these steps in RUN/profile, and a table of time by phase and rank; "
                      "with ,memory also each GPU's allocations");
  command->footer(
      concat("Every key is explained by --print-config: pimoe train configs/quickstart.yaml --print-config\n"
             "Presets, as preset=NAME or `preset: NAME` in the file; every key that is written out is stronger:\n",
             preset_lines(),
             "Example:\n  mpirun -n 4 pimoe train configs/quickstart.yaml mesh.expert_parallel=2 train.steps=500\n"
             "SIGUSR1 (mpirun and srun forward it), and SIGTERM, SIGHUP or Ctrl-C where the launcher gives time, save and leave with "
             "75;\nthe same "
             "command then goes on (checkpoint.resume: auto)."));
  command->callback([options, &context] { context.action = [options, &context] { return train(*options, context); }; });
}

}  // namespace pimoe
