#include "proof/parity_check.h"

#include "base/errors.h"
#include "base/text.h"
#include "moe/layout_dependence.h"
#include "proof/parity_facts.h"
#include "proof/precision_tolerance.h"

#include <ATen/TensorOperators.h>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace pimoe {
namespace {

constexpr int64_t kMostSequences = 4;  ///< unless asked for: the loop is slow
constexpr double kBreakFactor = 1.1;
constexpr const char* kBreakVariable = "PIMOE_PARITY_BREAK";

/// See parity_check.h: rank 0's contribution to one gradient comes out wrong.
void break_on_request(ObservedModel& model, ParityReport& report) {
  const char* wanted = std::getenv(kBreakVariable);
  if (wanted == nullptr) return;
  std::vector<std::string> names;
  for (const auto& parameter : model.model().parameters()) names.push_back(parameter->name);
  if (std::find(names.begin(), names.end(), wanted) == names.end()) {
    const std::string nearest = nearest_name(wanted, names);
    throw UsageError(concat(kBreakVariable, " (", wanted, ") in the environment must name a parameter of the model",
                            nearest.empty() ? concat(", as ", names.front(), " does") : concat(": did you mean ", nearest, "?")));
  }
  report.note(concat(kBreakVariable, ": rank 0's gradient of ", wanted, " is scaled by ", kBreakFactor));
  const at::Tensor value = model.model().parameters().at(wanted).value;
  if (model.mesh().rank() == 0) value.register_hook([](const at::Tensor& gradient) { return gradient * kBreakFactor; });
}

/// Every rank of a machine keeps all of a step's logits in float64, and rank 0 those of its two other runs: a bound from below.
void require_memory(const TrainConfig& config, int64_t sequences, const ProcessMesh& mesh) {
  const double logits = static_cast<double>(sequences) * static_cast<double>(config.model.sequence_length) *
                        static_cast<double>(config.model.vocabulary) * sizeof(double);
  const double needed = logits * (mesh.node_size() + 2);
  const double there = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  if (needed <= there) return;
  throw UsageError(concat("--sequences (", sequences, ") is too many: the logits alone, ", sequences, " x model.sequence_length ",
                          config.model.sequence_length, " x model.vocabulary ", config.model.vocabulary, " in float64 for ",
                          mesh.node_size() + 2, " runs, take ", human_bytes(needed), ", and this machine has ", human_bytes(there)));
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
  const ProcessMesh mesh = one_rank_mesh(given.config.mesh, session, given.config.model.moe.common_divisor());
  ObservedModel model(given.config, dtype, mesh);
  const StartingWeights weights = starting_weights(model);
  const ObservedRun one = run_step(given, model);

  const auto with = [](Facts first, const Facts& rest) {
    first.insert(first.end(), rest.begin(), rest.end());
    return first;
  };
  double score = 0.0;
  const auto loop = [&](const ObservedRun& run, const std::vector<Pair>& pairs) {
    const ReferenceStep step = reference_step(reference_input(given, weights, run.experts));
    score = std::max(score, step.largest_score);
    const Facts expected = with(decisions(given, nullptr), facts_of(given, step, weights));
    for (const Pair pair : pairs) report.compare(pair, with(decisions(given, &step), (pair == kLayoutLoop ? layout : one).facts), expected);
  };
  const int64_t other = (layout.experts != one.experts).sum().item<int64_t>();
  if (other == 0) {
    report.compare(kLayoutOneRank, with(decisions(given, nullptr), layout.facts), with(decisions(given, nullptr), one.facts));
    loop(layout, {kLayoutLoop, kOneRankLoop});
  } else {
    report.note(
        concat("the layout and one rank decided ", other, " of ", layout.experts.numel(),
               " slots otherwise. Near-ties do in finite precision; everything after them differs, so that the two are not compared with "
               "each other, but each with a loop that judges and takes its decisions"));
    loop(layout, {kLayoutLoop});
    loop(one, {kOneRankLoop});
  }
  if (const double uncertain = score * rounding(dtype); !report.agrees() && uncertain > given.tolerance) {
    report.note(concat("attention scores reach ", scientific(score, 1), ": in ", dtype_name(dtype),
                       " their rounding alone moves probabilities by ", scientific(uncertain, 1),
                       ", so that no two orders of summing need agree within ", scientific(given.tolerance, 1)));
  }
}

}  // namespace

ParityOutcome check_parity(TrainConfig config, int64_t sequences, at::ScalarType dtype, const ProcessMesh& mesh,
                           const MpiSession& session) {
  ParityReport report(precision_tolerance(dtype));
  for (const std::string& line : leave_out_what_layouts_change(config.model.moe)) report.note(line);
  if (!config.model.moe.router.replay.empty()) {
    report.note("model.moe.router.replay is left out: the routers' own decisions are judged");
    config.model.moe.router.replay.clear();
  }
  if (sequences == 0) {
    sequences = std::min(config.train.global_batch, kMostSequences);
    if (sequences < config.train.global_batch) {
      report.note(concat("the batch has ", sequences, " of train.global_batch = ", config.train.global_batch,
                         " sequences, as the loop is slow: --sequences takes more"));
    }
  }
  if (config.data.training().empty()) report.note("no data.train: the tokens are drawn at random");
  require_memory(config, sequences, mesh);

  ParityCase given;
  given.config = config;
  given.layers = config.model.router_names();
  given.tolerance = precision_tolerance(dtype);
  given.batch = read_batch(config, 0, sequences, config.model.sequence_length, mesh.group(Group::kBatch).size());
  ObservedRun layout;
  {
    ObservedModel model(config, dtype, mesh);
    break_on_request(model, report);
    layout = run_step(given, model);
  }
  if (mesh.rank() == 0) compare_with_layout(given, dtype, layout, session, report);
  return {sequences, static_cast<int64_t>(given.batch.micro_steps.size()), std::move(report)};
}

}  // namespace pimoe
