#include "train/resume.h"

#include "base/config_values.h"
#include "base/errors.h"
#include "base/number_text.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "checkpoint/step_folders.h"
#include "data/sample_blend.h"
#include "moe/adaptive_control.h"
#include "train/model_keys.h"
#include "train/seen_by_rank_0.h"

#include <cstdlib>

namespace pimoe {
namespace {

constexpr const char* kBefore = "in the checkpoint";
constexpr const char* kNow = "now";
constexpr char kNamed = 'n';  // before the path of a checkpoint
constexpr char kFound = 'f';  // before that of the run's newest

/// @returns "a, b"
std::string names_of(const std::vector<BlendedCorpus>& corpora) {
  std::vector<std::string> names;
  for (const BlendedCorpus& each : corpora) names.push_back(each.prefix);
  return join(names, ", ");
}

/// @returns "2, 1"
std::string weights_of(const std::vector<BlendedCorpus>& corpora) {
  std::vector<std::string> weights;
  for (const BlendedCorpus& each : corpora) weights.push_back(shortest(each.weight));
  return join(weights, ", ");
}

}  // namespace

ResumeChoice choose_checkpoint(const TrainConfig& config, const OwnCheckpoints& own, const CheckpointFinder& find) {
  const std::string& wish = config.checkpoint.resume;
  const std::filesystem::path folder = RunPaths(config.run.directory).checkpoints();
  if (wish == "auto") {
    // Beginning again would wipe the record of a run that somebody may still repair.
    if (!own.newest_good && own.damaged > 0) {
      throw CheckpointError(concat("none of this run's checkpoints is good: ", own.damaged, " set aside as ",
                                   (folder / "step-*.bad").string(),
                                   ". To begin again choose another run.directory, or set checkpoint.resume=none"));
    }
    return {own.newest_good, ""};
  }
  if (wish == "none") {
    // A second run in the same folder would leave two runs' checkpoints side by side, and the next `auto` could take the wrong one.
    if (own.newest_good) {
      throw ConfigError(concat("checkpoint.resume is none, but run.directory (", config.run.directory.string(), ") has ",
                               own.newest_good->filename().string(), ": choose another run.directory, or remove that one"));
    }
    return {};
  }
  if (wish.empty()) throw ConfigError("checkpoint.resume is empty, but must be auto, none or the path of a checkpoint");
  const std::filesystem::path start = std::filesystem::canonical(find(wish));
  std::error_code no_folder_yet;
  const bool of_this_run = std::filesystem::equivalent(start.parent_path(), folder, no_folder_yet);
  if (!own.newest_good || of_this_run) return {start, ""};
  return {own.newest_good, concat("going on with this run's own ", own.newest_good->filename().string(), "; checkpoint.resume (", wish,
                                  ") is where it began")};
}

std::optional<ResumePoint> checkpoint_to_resume(const TrainConfig& config, CheckpointStore& checkpoints, const ProcessMesh& mesh,
                                                Logger& log) {
  Manifest newest;
  const std::optional<std::filesystem::path> own = checkpoints.newest_good(&newest);
  const std::string told_of = seen_by_rank_0(mesh.control(), [&] {
    const OwnCheckpoints ours{own, count_set_aside(RunPaths(config.run.directory).checkpoints())};
    const ResumeChoice choice = choose_checkpoint(config, ours, [](const auto& path) { return find_checkpoint(path); });
    if (!choice.said.empty()) log.info(choice.said);
    if (!choice.checkpoint) return std::string();
    const bool is_named = config.checkpoint.resume != "auto" && choice.said.empty();
    return concat(is_named ? kNamed : kFound, choice.checkpoint->string());
  });
  if (told_of.empty()) return std::nullopt;
  // Its table of contents is the one that was verified, whatever has become of the file since: damage shows at the load, and is set aside there.
  if (told_of[0] == kFound) return ResumePoint{*own, newest.config, AdaptiveControl::temperature_in(newest.numbers), true};
  const std::string chosen = told_of.substr(1);
  // The temperature to the bit, or nothing, in the first line.
  const std::string told = seen_by_rank_0(mesh.control(), [&] {
    const Manifest manifest = read_manifest(chosen);
    const std::optional<double> temperature = AdaptiveControl::temperature_in(manifest.numbers);
    return concat(temperature ? concat(std::hexfloat, *temperature) : "", "\n", manifest.config);
  });
  const size_t end = told.find('\n');
  const std::optional<double> temperature = end == 0 ? std::nullopt : std::optional(std::strtod(told.c_str(), nullptr));
  return ResumePoint{chosen, told.substr(end + 1), temperature, false};
}

void require_same_model(const TrainConfig& saved, const TrainConfig& wanted, const std::string& checkpoint) {
  if (saved.model.quantization.exists()) {
    throw ConfigError(concat(checkpoint, " is quantized (model.quantization.kind ", saved.model.quantization.word(),
                             "), and int8 weights are not trained: go on from the checkpoint that it was made of"));
  }
  const std::vector<std::string> differences =
      differing_values(model_identity(saved.model, wanted.model), kBefore, model_identity(wanted.model, wanted.model), kNow);
  if (differences.empty()) return;
  throw ConfigError(concat("the configuration's model is not the one of ", checkpoint, ":\n  ", join(differences, "\n  "),
                           "\n  Go on with the checkpoint's model, or choose another run.directory for a new one."));
}

std::string doubt_about_replay(const RoutingReplay& replay, const TrainConfig& config, int64_t done) {
  const std::filesystem::path& path = config.model.moe.router.replay;
  if (done >= config.train.steps) return "";  // a complete run has its own word for that
  if (!replay.has_steps(done + 1, config.train.steps)) {
    return concat("model.moe.router.replay (", path.string(), ") has no effect, because ", replay.steps(),
                  " is what was recorded, and this run does steps ", done + 1, " to ", config.train.steps);
  }
  const std::filesystem::path own = RunPaths(config.run.directory).routing();
  std::error_code ignored;
  if (std::filesystem::equivalent(path, own, ignored) || std::filesystem::equivalent(path.parent_path(), own, ignored)) {
    throw ConfigError(concat("model.moe.router.replay (", path.string(), ") is this run's own, and what it recorded of steps after ", done,
                             " goes, because they are done again: replay a copy of it"));
  }
  return "";
}

std::string command_to_go_on(const TrainConfig& config) {
  return concat("the same command", config.checkpoint.resume == "auto" ? "" : " with checkpoint.resume=auto");
}

std::vector<std::string> changes_of_data(const TrainConfig& saved, const DataFacts& facts_saved, const TrainConfig& wanted,
                                         const DataFacts& facts_now) {
  std::vector<std::string> changes;
  const std::vector<BlendedCorpus> then = saved.data.training();
  const std::vector<BlendedCorpus> now = wanted.data.training();
  if (then.empty()) return changes;  // an imported model: its data begins here
  const auto compare_values = [&](const std::string& key, const auto& was, const auto& is, const char* meaning) {
    const auto shown = [](const auto& value) { return concat(value).empty() ? std::string("empty") : concat(value); };
    if (was != is) changes.push_back(concat(key, ": ", shown(was), " ", kBefore, ", ", shown(is), " ", kNow, "; ", meaning));
  };
  const auto compare_files = [&](const std::string& key, const std::string& was, const std::string& is, const char* meaning) {
    const DataChange change = change_of(key, facts_saved, facts_now);
    if (change == DataChange::kNone) return;  // moved, at most
    if (change == DataChange::kUnknown || was != is) return compare_values(key, was, is, meaning);
    const std::string what = change == DataChange::kOtherNumber ? concat(counted(tokens_in(key, facts_saved), "token"), " ", kBefore, ", ",
                                                                         grouped(tokens_in(key, facts_now)), " ", kNow)
                                                                : concat("other content than ", kBefore);
    changes.push_back(concat(key, ": ", is, " was built again: ", what, "; ", meaning));
  };
  compare_values("run.seed", saved.run.seed, wanted.run.seed, "the order of the data changes from here on");
  if (saved.data.document_mask != wanted.data.document_mask) {
    changes.push_back(concat("data.document_mask: ", saved.data.document_mask ? "true " : "false ", kBefore, ", ",
                             wanted.data.document_mask ? "true " : "false ", kNow,
                             "; what a token sees, and which tokens the losses count, changes from here on"));
  }
  compare_values("data.packing", packing_name(saved.data.packing), packing_name(wanted.data.packing),
                 "other rows from here on, entered where this run stood in the others");
  compare_values("data.loss", loss_name(saved.data.loss), loss_name(wanted.data.loss), "other tokens count from here on");
  if (then.size() != now.size()) {
    compare_values("data.train", names_of(then), names_of(now),
                   "another blend from here on, entered where this run stood in the other one");
  } else {
    if (const BlendOrder order = order_of(then); !(order == order_of(now))) {
      compare_values("data.train", concat("weights ", weights_of(then)), weights_of(now),
                     "other shares from here on: each corpus is entered where it would stand had they always been these");
    }
    for (size_t i = 0; i < now.size(); ++i) {
      compare_files(training_key(i, now.size()), then[i].prefix, now[i].prefix,
                    "another corpus from here on, entered where this run stood in the other one");
    }
  }
  compare_files("data.tokenizer", saved.data.tokenizer, wanted.data.tokenizer,
                "if it does not give the same ids, they no longer mean what the model has learned");
  compare_files("data.validation", saved.data.validation, wanted.data.validation, "validation losses do not compare with those before");
  return changes;
}

}  // namespace pimoe
