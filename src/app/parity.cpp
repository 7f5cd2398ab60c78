#include "app/parity.h"

#include "app/run_setup.h"
#include "base/text.h"
#include "parallel/device.h"
#include "proof/parity_facts.h"
#include "proof/precision_tolerance.h"
#include "train/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>

namespace pimoe {
namespace {

constexpr int64_t kMostSequences = 4;  ///< unless asked for: the loop is slow
constexpr double kBreakFactor = 1.1;

struct ParityOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;
  int64_t sequences = 0;
  bool json = false;
};

/// Turns off what is defined for each rank's tokens alone: no two layouts could agree on it. @returns a line for each
std::vector<std::string> leave_out_what_layouts_change(MoeConfig& moe) {
  std::vector<std::string> notes;
  if (moe.capacity_factor > 0) {
    notes.push_back("model.moe.capacity_factor is left out (dropless here): it counts each rank's tokens and changes with the layout");
    moe.capacity_factor = 0;
    moe.capacity_pad = false;
  }
  if (moe.rank_budget > 0 && moe.rank_overflow == RankOverflow::kDrop) {
    notes.push_back("model.moe.rank_overflow: drop is left out (chunk here): what a rank drops changes with the layout");
    moe.rank_overflow = RankOverflow::kChunk;
  }
  if (moe.balance.local_loss > 0) {
    notes.push_back("model.moe.balance.local_loss is left out: its unit is one rank's tokens and changes with the layout");
    moe.balance.local_loss = 0;
  }
  return notes;
}

/// See parity.h: rank 0's contribution to one gradient comes out wrong.
void break_on_request(ObservedModel& model, ParityReport& report) {
  const char* name = std::getenv("PIMOE_PARITY_BREAK");
  if (name == nullptr) return;
  report.note(concat("PIMOE_PARITY_BREAK: rank 0's gradient of ", name, " is scaled by ", kBreakFactor));
  const at::Tensor value = model.model().parameters().at(name).value;
  if (model.mesh().rank() == 0) value.register_hook([](const at::Tensor& gradient) { return gradient * kBreakFactor; });
}

struct ObservedRun {
  at::Tensor experts;
  Facts facts;
};

ObservedRun run_step(const ParityCase& given, ObservedModel& model) {
  ObservedStep seen = model.step(given.batch, /*whole=*/true);
  const NamedTensors after = model.masters();
  if (model.mesh().rank() != 0) return {};
  return {seen.experts, facts_of(given, seen, after)};
}

/// Rank 0 alone: one rank, and the loop, against what the layout did.
void compare_with_layout(const ParityCase& given, at::ScalarType dtype, const ObservedRun& layout, const MpiSession& session,
                         ParityReport& report) {
  MeshConfig alone = given.config.mesh;
  alone.expert_parallel = 1;
  alone.transport = Transport::kAuto;
  const ProcessMesh mesh(alone, session.self(), session.self(), given.config.model.moe.common_divisor());
  ObservedModel model(given.config, dtype, mesh);
  const StartingWeights weights = starting_weights(model);
  const ObservedRun one = run_step(given, model);

  const auto with = [](Facts first, const Facts& rest) {
    first.insert(first.end(), rest.begin(), rest.end());
    return first;
  };
  const auto loop = [&](const ObservedRun& run, const std::vector<Pair>& pairs) {
    const ReferenceStep step = reference_step(reference_input(given, weights, run.experts));
    const Facts expected = with(decisions(given, nullptr), facts_of(given, step, weights));
    for (const Pair pair : pairs) report.compare(pair, with(decisions(given, &step), (pair == kLayoutLoop ? layout : one).facts), expected);
  };
  const int64_t other = (layout.experts != one.experts).sum().item<int64_t>();
  if (other == 0) {
    report.compare(kLayoutOneRank, with(decisions(given, nullptr), layout.facts), with(decisions(given, nullptr), one.facts));
    loop(layout, {kLayoutLoop, kOneRankLoop});
    return;
  }
  report.note(
      concat("the layout and one rank decided ", other, " of ", layout.experts.numel(),
             " slots otherwise. Near-ties do in finite precision; everything after them differs, so that the two are not compared with "
             "each other, but each with a loop that judges and takes its decisions"));
  loop(layout, {kLayoutLoop});
  loop(one, {kOneRankLoop});
}

ExitCode parity(const ParityOptions& options, AppContext& context) {
  TrainConfig config = load_train_config(options.config, options.overrides, /*needs_corpus=*/false);
  const std::vector<std::string> notes = leave_out_what_layouts_change(config.model.moe);
  const MpiSession& session = context.mpi();
  const ProcessMesh mesh(config.mesh, session.world(), session.node(), config.model.moe.common_divisor());
  at::set_num_threads(thread_count(config, mesh));
  use_device(mesh.device());

  const at::ScalarType dtype = agreed_dtype(config.train.precision, mesh);
  const PrecisionRule rule = rule_of(dtype);
  const int64_t sequences = options.sequences > 0 ? options.sequences : std::min(config.train.global_batch, kMostSequences);
  ParityCase given;
  given.config = config;
  given.tolerance = rule.tolerance;
  given.batch = read_batch(config, 0, sequences, config.model.sequence_length, mesh.group(Group::kBatch).size());
  ParityReport report(rule.tolerance);
  for (const std::string& line : notes) report.note(line);
  if (options.sequences == 0 && sequences < config.train.global_batch) {
    report.note(concat("the batch has ", sequences, " of train.global_batch = ", config.train.global_batch,
                       " sequences, as the loop is slow: --sequences takes more"));
  }
  if (config.data.train.empty()) report.note("no data.train: the tokens are drawn at random");

  ObservedRun layout;
  {
    ObservedModel model(config, dtype, mesh);
    break_on_request(model, report);
    for (MoELayer* layer : model.model().moe_layers()) given.layers.push_back(layer->router().name());
    layout = run_step(given, model);
  }
  if (mesh.rank() == 0) {
    compare_with_layout(given, dtype, layout, session, report);
    const std::string what = concat(mesh.size(), mesh.size() == 1 ? " rank" : " ranks", ", experts over ", mesh.expert_parallel(), ", ",
                                    rule.name, ", ", sequences, " sequences of ", config.model.sequence_length, " tokens in ",
                                    given.batch.micro_steps.size(), given.batch.micro_steps.size() == 1 ? " micro-step" : " micro-steps");
    if (options.json) {
      nlohmann::ordered_json document = {{"ranks", mesh.size()},
                                         {"expert_parallel", mesh.expert_parallel()},
                                         {"precision", rule.name},
                                         {"sequences", sequences},
                                         {"micro_steps", given.batch.micro_steps.size()}};
      document.update(report.json());
      std::cout << document.dump(2) << std::endl;
    } else {
      std::cout << "parity of " << what << ": allowed " << scientific(rule.tolerance, 1) << " relative\n\n"
                << report.table() << "\n"
                << (report.agrees() ? "agrees" : "DIFFERS: " + report.first_disagreement()) << std::endl;
    }
    if (!report.agrees()) context.log.error("parity: " + report.first_disagreement());
  }
  // Everyone leaves with rank 0's verdict, and after it has been printed: mpirun ends the others when one leaves with an error.
  const std::string verdict = mesh.control().broadcast_text(report.agrees() ? "" : report.first_disagreement(), 0);
  return verdict.empty() ? ExitCode::kDone : ExitCode::kCheckSaysNo;
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
                   "of the batch, from the corpus' first; 0: train.global_batch, at most 4, because the loop is slow")
      ->check(CLI::NonNegativeNumber)
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
      "What changes with the layout by definition (capacity_factor, rank_overflow: drop, balance.local_loss) is turned off, with a note.\n"
      "Router decisions are judged in float64 (what the chosen scores miss of the best), then taken by the loop.\n"
      "Example:\n  mpirun -n 4 pimoe parity configs/quickstart.yaml train.precision=float64 mesh.expert_parallel=2 --sequences 4");
  command->callback([options, &context] { context.action = [options, &context] { return parity(*options, context); }; });
}

}  // namespace pimoe
