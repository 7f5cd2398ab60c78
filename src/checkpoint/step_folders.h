#pragma once

/// The folders of a run's checkpoints on the file system. One process at a time changes them.
///
///     step-00000100        a checkpoint, good if its manifest verifies
///     step-00000150.tmp    being written; after a crash, the rest of it
///     step-00000100.old    on its way out: replaced by a newer save of the same step, or beyond `keep`
///     step-00000150.bad    found damaged, with reason.txt; never touched again
///
/// A number behind the suffix (.tmp-2, .old-2, .bad-2) tells a folder from an earlier one that is there still: one that cannot be removed (not ours,
/// immutable, a mount) holds up no save.

#include <cstdint>
#include <filesystem>
#include <map>
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

/// What came of work on several folders, where one that resists keeps nobody from the others.
struct FolderWork {
  std::vector<std::string> done;  ///< one line each
  /// "cannot remove PATH: reason", by path
  std::map<std::filesystem::path, std::string> troubles;
};

/// Removes what killed saves left. A checkpoint that was moved aside and not yet replaced is moved back. @throws IoError where it cannot be listed
FolderWork sweep_leftovers(const std::filesystem::path& folder);

/// Makes an empty folder beside `checkpoint` to write it in: step-N.tmp, from which what a killed save left goes; step-N.tmp-2 and so on where that
/// cannot be removed. @throws IoError
std::filesystem::path make_temporary(const std::filesystem::path& checkpoint);

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
/// @returns what was deleted, and what could not be. @throws IoError where the folder cannot be listed
FolderWork prune_steps(const std::filesystem::path& folder, int64_t saved, int64_t keep);

}  // namespace pimoe
