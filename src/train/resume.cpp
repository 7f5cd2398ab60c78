#include "train/resume.h"

#include "base/errors.h"
#include "base/text.h"

#include <algorithm>
#include <vector>

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
    model.moe.balance = wanted.model.moe.balance;  // losses and the scale of initial weights may change
    model.initial_deviation = wanted.model.initial_deviation;
    model.moe.router.replay = wanted.model.moe.router.replay;
    return split(print_fields([&](FieldVisitor& visit) { model.fields(visit); }), '\n');
  };
  const std::vector<std::string> had = lines(saved);
  const std::vector<std::string> has = lines(wanted);
  std::string differences;
  for (size_t line = 0; line < std::min(had.size(), has.size()); ++line) {
    if (had[line] != has[line]) differences += concat("\n  the checkpoint has ", had[line], ", the configuration ", has[line]);
  }
  if (differences.empty()) return;
  throw ConfigError(concat("the configuration's model is not the one of ", checkpoint, ":", differences,
                           "\n  Go on with the checkpoint's model, or choose another run.directory for a new one."));
}

}  // namespace pimoe
