#include "train/resume.h"

#include "base/errors.h"
#include "base/text.h"

#include <algorithm>

namespace pimoe {
namespace {

int64_t damaged_checkpoints(const std::filesystem::path& run) {
  const std::filesystem::directory_iterator folder(run / "checkpoints");
  return std::count_if(begin(folder), end(folder), [](const auto& entry) { return entry.path().extension() == ".bad"; });
}

}  // namespace

std::optional<std::filesystem::path> checkpoint_to_resume(const TrainConfig& config, CheckpointStore& checkpoints, Logger& log) {
  const std::string& wish = config.checkpoint.resume;
  const std::optional<std::filesystem::path> own = checkpoints.newest_good();
  if (wish == "auto") {
    // Beginning again would wipe the record of a run that somebody may still repair.
    if (const auto damaged = damaged_checkpoints(config.run.directory); !own && damaged > 0) {
      throw CheckpointError(concat("none of this run's checkpoints is good: ", damaged, " set aside as ",
                                   (config.run.directory / "checkpoints/step-*.bad").string(),
                                   ". To begin again choose another run.directory, or set checkpoint.resume=none"));
    }
    return own;
  }
  if (wish == "none") {
    // A second run in the same folder would leave two runs' checkpoints side by side, and the next `auto` could take the wrong one.
    if (own) {
      throw ConfigError(concat("checkpoint.resume is none, but run.directory (", config.run.directory.string(), ") has ",
                               own->filename().string(), ": choose another run.directory, or remove that one"));
    }
    return std::nullopt;
  }
  const std::filesystem::path start = std::filesystem::canonical(find_checkpoint(wish));
  const bool of_this_run = std::filesystem::equivalent(start.parent_path(), config.run.directory / "checkpoints");
  if (!own || of_this_run) return start;
  log.info(concat("going on with this run's own ", own->filename().string(), "; checkpoint.resume (", wish, ") is where it began"));
  return own;
}

void require_same_model(const TrainConfig& saved, const TrainConfig& wanted, const std::string& checkpoint) {
  const auto lines = [&](const TrainConfig& config) {
    ModelConfig model = config.model;
    model.initial_deviation = wanted.model.initial_deviation;
    // How experts are balanced, limited, checked and kept in memory may change from run to run; what they compute may not.
    MoeConfig& moe = model.moe;
    const MoeConfig& other = wanted.model.moe;
    moe.balance = other.balance;
    moe.adaptive = other.adaptive;
    moe.capacity_factor = other.capacity_factor;
    moe.capacity_drop = other.capacity_drop;
    moe.capacity_pad = other.capacity_pad;
    moe.rank_budget = other.rank_budget;
    moe.rank_overflow = other.rank_overflow;
    moe.memory = other.memory;
    moe.checks = other.checks;
    moe.router.jitter = other.router.jitter;
    moe.router.initial_skew = other.router.initial_skew;
    moe.router.replay = other.router.replay;
    std::vector<std::string> printed = split(print_fields([&](FieldVisitor& visit) { model.fields(visit); }), '\n');
    for (std::string& line : printed) line.resize(std::min(line.size(), line.find("  # ")));  // the help is no part of the value
    return printed;
  };
  const std::vector<std::string> had = lines(saved);
  const std::vector<std::string> has = lines(wanted);
  std::string differences;
  const auto line_of = [](const std::vector<std::string>& all, size_t line) { return line < all.size() ? all[line] : "nothing"; };
  for (size_t line = 0; line < std::max(had.size(), has.size()); ++line) {  // a list may be longer in one of them
    if (line_of(had, line) == line_of(has, line)) continue;
    differences += concat("\n  the checkpoint has ", line_of(had, line), ", the configuration ", line_of(has, line));
  }
  if (differences.empty()) return;
  throw ConfigError(concat("the configuration's model is not the one of ", checkpoint, ":", differences,
                           "\n  Go on with the checkpoint's model, or choose another run.directory for a new one."));
}

std::vector<std::string> changes_of_data(const TrainConfig& saved, const TrainConfig& wanted) {
  std::vector<std::string> changes;
  const auto compare = [&](const char* key, const auto& was, const auto& is, const char* meaning) {
    const auto shown = [](const auto& value) { return concat(value).empty() ? std::string("empty") : concat(value); };
    if (was != is) changes.push_back(concat(key, " was ", shown(was), " and is ", shown(is), ": ", meaning));
  };
  compare("run.seed", saved.run.seed, wanted.run.seed, "the order of the data changes from here on");
  compare("data.train", saved.data.train, wanted.data.train, "another corpus from here on, entered where this run stood in the other one");
  compare("data.tokenizer", saved.data.tokenizer, wanted.data.tokenizer,
          "if it is not the same tokenizer, ids no longer mean what the model has learned");
  compare("data.validation", saved.data.validation, wanted.data.validation, "validation losses do not compare with those before");
  return changes;
}

}  // namespace pimoe
