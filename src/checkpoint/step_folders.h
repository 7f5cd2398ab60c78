#pragma once

/// The folders of a run's checkpoints on the file system. One process at a time changes them.
///
///     step-00000100        a checkpoint, good if its manifest verifies
///     step-00000150.tmp    being written; after a crash, the rest of it
///     step-00000100.old    on its way out: replaced by a newer save of the same step, or beyond `keep`
///     step-00000150.bad    found damaged, with reason.txt; never touched again

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// "step-00000100"
std::string step_name(int64_t step);
/// @returns the step of a folder name that step_name gives; nothing for other names (step-00000100.tmp too).
std::optional<int64_t> step_of(const std::string& name);

struct StepFolder {
  int64_t step = 0;
  std::filesystem::path path;
};
/// @returns the checkpoint folders, good or not, oldest first; none where there is no such folder. @throws IoError
std::vector<StepFolder> list_steps(const std::filesystem::path& folder);

/// @returns the step of the newest checkpoint folder, good or not; nothing where there is none, or no such folder. @throws IoError
std::optional<int64_t> newest_step(const std::filesystem::path& folder);

/// Removes what killed saves left. A checkpoint that was moved aside and not yet replaced is moved back.
/// @returns what was done, one line each. @throws IoError
std::vector<std::string> sweep_leftovers(const std::filesystem::path& folder);

/// Renames a finished folder to `checkpoint`, durably; one that is there already is replaced, and is back if that fails.
/// @throws IoError
void commit_folder(const std::filesystem::path& temporary, const std::filesystem::path& checkpoint);

struct SetAside {
  std::filesystem::path path;  ///< the checkpoint's new one
  std::string trouble;         ///< what went wrong once it was there: reason.txt could not be written; "" for nothing
};
/// Renames a damaged checkpoint to .bad (.bad-2, ... if taken) and writes the reason into it. @throws IoError where it could not be renamed
SetAside set_aside(const std::filesystem::path& checkpoint, const std::string& reason);

/// @returns how many checkpoints of a folder were set aside, as .bad, .bad-2 and so on; 0 where there is no such folder. @throws IoError
int64_t count_set_aside(const std::filesystem::path& folder);

/// Deletes the oldest checkpoints before step `saved`, so that `keep` good ones stay, `saved` among them. Good is judged by manifest and
/// sizes; damaged ones and later steps are neither counted nor touched.
/// @returns the paths that were deleted. @throws IoError
std::vector<std::filesystem::path> prune_steps(const std::filesystem::path& folder, int64_t saved, int64_t keep);

}  // namespace pimoe
