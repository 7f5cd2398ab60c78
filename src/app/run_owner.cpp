#include "app/run_owner.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "checkpoint/manifest.h"
#include "checkpoint/step_folders.h"
#include "train/train_config.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// Whether a run has begun there: docs/run_folder.md.
bool is_run_folder(const fs::path& folder) {
  std::error_code ignored;
  const auto has = [&](const char* file) { return fs::is_regular_file(folder / file, ignored); };
  return has("config.yaml") && (has("lock") || has("metrics.jsonl"));
}

}  // namespace

std::string run_of(const fs::path& checkpoint) try {
  return parse_train_config(read_manifest(checkpoint).config, checkpoint.string()).run.directory.string();
} catch (const Error&) {  // the contract: damaged, or of a version that knows other keys
  return "";
}

void require_no_other_run(const fs::path& output, const fs::path& place, const std::string& run) {
  const auto refuse = [&](const fs::path& folder, const std::string& whose) {
    throw UsageError(
        concat("--output (", output.string(), ") is in ", folder.string(), ", the folder of ", whose,
               ": its checkpoints are one sequence, and one from elsewhere among them could be gone on from in place of its own. "
               "Name a folder that is new, or empty, and inside no run's"));
  };
  for (fs::path folder = fs::weakly_canonical(fs::absolute(place));; folder = folder.parent_path()) {
    if (is_run_folder(folder)) refuse(folder, "a run that has trained there");
    for (const fs::path& checkpoints : {folder, folder / "checkpoints"}) {
      for (const StepFolder& step : list_steps(checkpoints)) {
        const std::string other = run_of(step.path);
        if (other != run || other.empty())  // whose a damaged one is, nobody knows
          refuse(checkpoints, other.empty() ? step_name(step.step) : concat("run ", other, " (", step_name(step.step), ")"));
      }
    }
    if (!folder.has_relative_path()) return;
  }
}

}  // namespace pimoe
