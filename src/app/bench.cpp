#include "app/bench.h"

#include "app/number_checks.h"
#include "app/output_file.h"
#include "app/pretrained.h"
#include "app/print_json.h"
#include "app/run_setup.h"
#include "app/serve_suite.h"
#include "base/config_values.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/utf8.h"
#include "bench/machine.h"
#include "bench/report.h"
#include "bench/suites.h"
#include "train/presets.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <iostream>
#include <memory>

namespace pimoe {
namespace {

constexpr double kMostSeconds = 3600;
constexpr size_t kMostNamed = 5;  ///< keys that have no use

/// What is measured where no configuration file is given: the defaults, with a vocabulary. Its name names the run folder, runs/bench.
constexpr const char* kSmallModel = "model: {vocabulary: 4096}\ntrain: {precision: auto}\n";

struct BenchCommand {
  std::string suite;
  std::string config;  ///< "": kSmallModel
  std::vector<std::string> overrides;
  double seconds = 1.0;
  std::string file;  ///< of --json; "" or "-": the standard output
  bool json = false;

  bool prints_json() const { return json && (file.empty() || file == "-"); }
  bool writes_json() const { return json && !prints_json(); }
};

/// Both may be left out: what looks like an override in the first one's place is one.
void sort_words(BenchCommand& command) {
  if (command.config.find('=') == std::string::npos) return;
  command.overrides.insert(command.overrides.begin(), command.config);
  command.config.clear();
}

/// A suite whose shapes are its own would leave what it is given unused. @throws ConfigError naming the first of these keys
void require_nothing_unused(const Suite& suite, const ConfigSource& file, const std::vector<std::string>& overrides) {
  TrainConfig config;
  const ConfigOrigins origins = read_train_config(file, overrides, nullptr, config);
  std::vector<std::string> unused;
  for (const auto& [key, value] : config_values([&](FieldVisitor& visit) { config.fields(visit); })) {
    const std::string origin = origins.of(key);
    const bool counts = key.starts_with("run.") || key.starts_with("mesh.") || key == "train.threads";
    if (!counts && !origin.empty() && !origin.starts_with(kPresetOrigin)) unused.push_back(concat(key, " (", value, ", ", origin, ")"));
  }
  if (unused.empty()) return;
  if (unused.size() > kMostNamed) {
    const auto others = static_cast<int64_t>(unused.size() - kMostNamed);
    unused.resize(kMostNamed);
    unused.push_back(concat("and ", counted(others, "other key")));
  }
  throw ConfigError(
      concat("suite ", suite.name, " has models of its own, and would not use what it is given:\n  ", join(unused, "\n  "),
             "\n  Leave these out: run.*, mesh.* and train.threads are all that it takes of a configuration. The other suites "
             "measure the configured model, with preset=NAME too"));
}

TrainConfig load(const BenchCommand& command, const std::vector<Suite>& suites, Logger& log) {
  const bool is_given = !command.config.empty();
  const ConfigSource file = is_given ? read_config_source(command.config) : ConfigSource{kSmallModel, "bench"};
  std::vector<std::string> overrides = command.overrides;
  if (suites.size() == 1 && suites[0].only_by_name) {
    require_nothing_unused(suites[0], is_given ? file : ConfigSource{"", "bench"}, command.overrides);
    overrides.insert(overrides.begin(), {"model.vocabulary=4096", "train.precision=auto"});  // a configuration has a model: as kSmallModel
  }
  return load_config_to_draw(file, overrides, log);
}

/// --json takes the word behind it: a configuration must not be overwritten for that. @throws UsageError, IoError before anything is measured
void require_output(const std::filesystem::path& file) {
  const std::string name = file.string();
  if (name.find('=') != std::string::npos || file.extension() == ".yaml" || file.extension() == ".yml") {
    throw UsageError(
        concat("--json takes the next word, '", name, "', for its file: put --json last, or write --json - or --json=FILE.json"));
  }
  require_writable(file);
}

std::string quoted(const std::string& word) {
  const bool is_plain = !word.empty() && word.find_first_of(" \t\n'\"$&|;<>()*?[]{}#~`\\") == std::string::npos;
  if (is_plain) return word;
  std::string text = "'";
  for (const char letter : word) text += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
  return text + "'";
}

std::string command_line(const BenchCommand& command) {
  std::string line = "pimoe bench " + quoted(command.suite);
  if (!command.config.empty()) line += " " + quoted(command.config);
  for (const std::string& word : command.overrides) line += " " + quoted(word);
  return concat(line, " --seconds ", command.seconds);
}

ExitCode bench(const BenchCommand& command, AppContext& context) {
  const std::vector<Suite> suites = suites_named(command.suite, suites_of_pimoe());
  if (command.writes_json()) require_output(command.file);
  TrainConfig config = load(command, suites, context.log);
  const RunSetup run(config, context);
  const at::ScalarType dtype = agreed_dtype(config.train.precision, run.mesh);
  Bench bench(config, dtype, run.mesh, context.log, {.effort = {.seconds = command.seconds}, .sizes = BenchSizes::of(run.mesh.device())});
  const BenchFacts facts = {.version = built_version(),
                            .commit = built_commit(),
                            .command = command_line(command),
                            .machine = machine_facts(run.mesh, dtype),
                            .config = to_yaml(bench.config())};
  run_suites(suites, bench);
  if (run.mesh.rank() == 0) {
    const nlohmann::ordered_json document = to_json(facts, bench.rows());
    if (command.prints_json()) {
      print_json(document);
    } else {
      std::cout << printable(to_text(facts, bench.rows()), /*keep_lines=*/true) << std::flush;
    }
    if (command.writes_json()) {
      replace_file(command.file, document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
      context.log.info("written to " + command.file);
    }
  }
  return verdict_of_rank_0("", run.mesh);
}

std::string suite_lines() {
  std::string lines;
  for (const Suite& suite : suites_of_pimoe()) {
    lines += concat("  ", suite.name, std::string(12 - std::string(suite.name).size(), ' '), suite.measures, "\n");
  }
  return lines + "  all         every suite but presets, in this order\n";
}

}  // namespace

void add_bench_command(CLI::App& app, AppContext& context) {
  auto command = std::make_shared<BenchCommand>();
  CLI::App* bench_app =
      app.add_subcommand("bench", "Measure speed: hardware, layer, training step, dispatch, optimizer, checkpoints, data, serving");
  bench_app->add_option("suite", command->suite, "what to measure; see below")->required()->type_name("SUITE");
  bench_app->add_option("config", command->config, "configuration file (YAML); without one every key's default, and a vocabulary of 4,096");
  bench_app->add_option("overrides", command->overrides, "key.path=value, stronger than the file");
  bench_app->add_option("--seconds", command->seconds, "that the repetitions of a measurement take together, at least five of them")
      ->check(number_in(0, kMostSeconds))
      ->capture_default_str();
  CLI::Option* json =
      bench_app->add_option("--json", command->file, "write JSON to FILE; without one, or with -, print it instead of the table")
          ->expected(0, 1)
          ->type_name("[FILE]");
  bench_app->footer(
      concat("Suites:\n", suite_lines(),
             "Under mpirun every rank takes part, and a time is the slowest rank's. Tokens and weights are random; the run folder is\n"
             "used for files (RUN/.pimoe-bench, removed afterwards) and its checkpoints are left alone.\n"
             "Examples:\n  mpirun -n 2 pimoe bench layer configs/quickstart.yaml model.vocabulary=4096 --json layer.json\n"
             "  pimoe bench layer model.width=2048 model.moe.experts=64 model.moe.choices=8 model.moe.expert_width=1024\n"
             "docs/bench.md says what each suite measures, and how to read it."));
  bench_app->callback([command, json, &context] {
    command->json = json->count() > 0;
    sort_words(*command);
    context.action = [command, &context] { return bench(*command, context); };
  });
}

}  // namespace pimoe
