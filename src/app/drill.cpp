#include "app/drill.h"

#include "app/number_checks.h"
#include "app/pretrained.h"
#include "app/print_json.h"
#include "app/run_setup.h"
#include "base/text.h"
#include "proof/drills.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iomanip>
#include <iostream>
#include <memory>
#include <mutex>
#include <thread>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostSeconds = int64_t{30} * 24 * 3600;

struct DrillOptions {
  std::string name;
  std::filesystem::path config;
  std::vector<std::string> overrides;
  int64_t timeout_seconds = 600;
  bool json = false;
};

/// Ends the job when a drill hangs: that it does not is part of what must hold.
class TimeLimit {
 public:
  TimeLimit(int64_t seconds, const std::string& drill, Logger& log)
      : thread_([this, seconds, drill, &log] {
          std::unique_lock lock(mutex_);
          if (ended_.wait_for(lock, std::chrono::seconds(seconds), [this] { return done_; })) return;
          log.error(concat("drill ", drill, ": not at its end after ", seconds, " s: it hangs, or --timeout is too short"));
          MpiSession::abort(static_cast<int>(ExitCode::kCheckSaysNo));
        }) {}
  ~TimeLimit() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    ended_.notify_all();
    thread_.join();
  }
  TimeLimit(const TimeLimit&) = delete;
  TimeLimit& operator=(const TimeLimit&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
  std::thread thread_;
};

ExitCode list(const DrillOptions& options) {
  if (MpiSession::launcher_rank() != 0) return ExitCode::kDone;
  Json document = Json::array();
  for (const Drill& drill : all_drills()) {
    document.push_back({{"name", drill.name}, {"holds", drill.holds}});
    if (!options.json) std::cout << std::left << std::setw(20) << drill.name << drill.holds << "\n";
  }
  if (options.json) print_json(document);
  return ExitCode::kDone;
}

const Drill& drill_named(const std::string& name) {
  std::vector<std::string> names = {"list"};
  for (const Drill& drill : all_drills()) {
    if (name == drill.name) return drill;
    names.emplace_back(drill.name);
  }
  const std::string nearest = nearest_name(name, names);
  throw UsageError(concat("there is no drill '", name, "'", nearest.empty() ? "" : concat(": did you mean '", nearest, "'?"), " (",
                          join(names, ", "), ")"));
}

/// @returns the first statement that did not hold, "" if all did
std::string report(const Drill& drill, const DrillOutcome& outcome, const ProcessMesh& mesh, const char* precision, bool json) {
  Json checks = Json::array();
  std::string broken;
  for (const DrillCheck& check : outcome.checks) {
    checks.push_back({{"what", check.what}, {"held", check.held}});
    if (!check.held && broken.empty()) broken = check.what;
  }
  if (json) {
    print_json({{"name", drill.name},
                {"holds", drill.holds},
                {"ranks", mesh.size()},
                {"expert_parallel", mesh.expert_parallel()},
                {"precision", precision},
                {"held", broken.empty()},
                {"checks", checks},
                {"notes", outcome.notes}});
    return broken;
  }
  std::cout << "drill " << drill.name << " on " << layout_text(mesh) << ", " << precision << "\n" << drill.holds << "\n\n";
  for (const DrillCheck& check : outcome.checks) std::cout << (check.held ? "  held    " : "  BROKEN  ") << check.what << "\n";
  for (const std::string& line : outcome.notes) std::cout << "  note    " << line << "\n";
  std::cout << "\n" << (broken.empty() ? "holds" : "DOES NOT HOLD") << "\n";
  return broken;
}

ExitCode drill(const DrillOptions& options, AppContext& context) {
  if (options.name == "list") return list(options);
  const Drill& drill = drill_named(options.name);
  if (options.config.empty())
    throw UsageError(concat("drill ", options.name, " needs a configuration file: pimoe drill ", options.name, " CONFIG.yaml"));
  TrainConfig config = load_config_to_draw(read_config_source(options.config), options.overrides, context.log);
  const RunSetup run(config, context);
  const char* const precision = dtype_name(agreed_dtype(config.train.precision, run.mesh));

  const TimeLimit time_limit(options.timeout_seconds, options.name, context.log);
  const DrillOutcome outcome = drill.run({config, run.mesh, run.session});
  std::string broken;
  if (run.mesh.rank() == 0) {
    broken = report(drill, outcome, run.mesh, precision, options.json);
    if (!broken.empty()) context.log.error(concat("drill ", drill.name, ": did not hold: ", broken));
  }
  return verdict_of_rank_0(broken, run.mesh);
}

}  // namespace

void add_drill_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<DrillOptions>();
  CLI::App* command =
      app.add_subcommand("drill", "Bring a model into trouble on purpose and check what must hold: exit code 0 it does, 1 not");
  command->add_option("name", options->name, "a drill, or `list`")->required()->type_name("NAME");
  command->add_option("config", options->config, "configuration file (YAML): model shape, precision and layout");
  command->add_option("overrides", options->overrides, "key.path=value, stronger than the file");
  command->add_option("--timeout", options->timeout_seconds, "seconds after which a drill counts as hanging")
      ->check(whole_number_in(1, kMostSeconds))
      ->capture_default_str();
  command->add_flag("--json", options->json, "print JSON; of `list` [{\"name\", \"holds\"}]");
  std::string names;
  for (const Drill& each : all_drills()) names += concat("  ", each.name, ": ", each.holds, "\n");
  command->footer(
      concat("A drill trains a few steps from the weights of run.seed on at most 8 sequences a step (data.train's first; random tokens "
             "without\none) and saves nothing. It may change the configuration for its purpose, and says so.\n",
             names,
             "Example:\n  pimoe drill list --json\n  mpirun -n 2 pimoe drill one_expert configs/quickstart.yaml "
             "train.precision=float32"));
  command->callback([options, &context] { context.action = [options, &context] { return drill(*options, context); }; });
}

}  // namespace pimoe
