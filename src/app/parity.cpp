#include "app/parity.h"

#include "app/number_checks.h"
#include "app/pretrained.h"
#include "app/print_json.h"
#include "app/run_setup.h"
#include "base/text.h"
#include "proof/parity_check.h"
#include "proof/precision_tolerance.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <iostream>
#include <memory>

namespace pimoe {
namespace {

constexpr int64_t kMostSequences = 1 << 16;

struct ParityOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;
  int64_t sequences = 0;
  bool json = false;
};

void print(const ParityOutcome& outcome, const TrainConfig& config, const ProcessMesh& mesh, at::ScalarType dtype, bool json) {
  const ParityReport& report = outcome.report;
  if (json) {
    nlohmann::ordered_json document = {{"ranks", mesh.size()},
                                       {"expert_parallel", mesh.expert_parallel()},
                                       {"precision", dtype_name(dtype)},
                                       {"sequences", outcome.sequences},
                                       {"micro_steps", outcome.micro_steps}};
    document.update(report.json());
    print_json(document);
    return;
  }
  std::cout << "parity of " << layout_text(mesh) << ", " << dtype_name(dtype) << ", " << counted(outcome.sequences, "sequence") << " of "
            << counted(config.model.sequence_length, "token") << " in " << counted(outcome.micro_steps, "micro-step") << ": allowed "
            << scientific(precision_tolerance(dtype), 1) << " relative\n\n"
            << report.table() << "\n"
            << (report.agrees() ? "agrees" : "DIFFERS: " + report.first_disagreement()) << "\n";
}

ExitCode parity(const ParityOptions& options, AppContext& context) {
  TrainConfig config = load_config_to_draw(read_config_source(options.config), options.overrides, context.log);
  const RunSetup run(config, context);
  const at::ScalarType dtype = agreed_dtype(config.train.precision, run.mesh);
  const ParityOutcome outcome = check_parity(config, options.sequences, dtype, run.mesh, run.session);
  const std::string& trouble = outcome.report.first_disagreement();
  if (run.mesh.rank() == 0) {
    print(outcome, config, run.mesh, dtype, options.json);
    if (!trouble.empty()) context.log.error("parity: " + trouble);
  }
  return verdict_of_rank_0(trouble, run.mesh);
}

}  // namespace

void add_parity_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<ParityOptions>();
  CLI::App* command =
      app.add_subcommand("parity", "Compare a step of this layout with one rank's and with a plain float64 loop: exit code 0 same, 1 not");
  command->add_option("config", options->config, "configuration file (YAML)")->required();
  command->add_option("overrides", options->overrides, "key.path=value, stronger than the file");
  command
      ->add_option("--sequences", options->sequences,
                   "sequences of the batch, the corpus' first ones; 0: train.global_batch, at most 4, because the loop is slow")
      ->check(whole_number_in(0, kMostSequences))
      ->capture_default_str();
  command->add_flag("--json", options->json, "print JSON");
  command->footer(
      "Run it with the layout to check: ranks by mpirun, mesh.* by the configuration. All runs begin with the weights of run.seed, take "
      "the same\n"
      "batch (data.train's first; random tokens without one) in as many micro-steps, and make one optimizer step.\n"
      "Differences are relative to a tensor's largest value, or to a thousandth of the quantity's largest where that is more. Allowed: "
      "float64\n"
      "1e-9, float32 1e-4, float16 2e-2, bfloat16 5e-2; loads and drops exactly. A weight may move by what its gradient's tolerance "
      "explains.\n"
      "What changes with the layout by definition (capacity_factor, rank_overflow: drop, balance.local_loss) is turned off, with a note;\n"
      "so is model.moe.router.replay.\n"
      "Router decisions are judged in float64 (what the chosen scores miss of the best), then taken by the loop.\n"
      "Example:\n  mpirun -n 4 pimoe parity configs/quickstart.yaml train.precision=float64 mesh.expert_parallel=2 --sequences 4");
  command->callback([options, &context] { context.action = [options, &context] { return parity(*options, context); }; });
}

}  // namespace pimoe
