#include "train/run_lock.h"

#include "base/errors.h"
#include "base/progress.h"
#include "base/run_paths.h"
#include "base/text.h"

#include <cerrno>
#include <system_error>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// Whether the file system has no locks at all, as Lustre mounted without `flock`, or NFS without its lock daemon.
bool has_no_locks(const IoError& error) { return error.code() == ENOSYS || error.code() == EOPNOTSUPP || error.code() == ENOLCK; }

/// Holds the folder of checkpoints, whichever it is. @returns nothing where there is none (what keeps it from being made is said by who saves there), or
/// where it is a link to the run folder, which is held already
/// @throws IoError with code EWOULDBLOCK
std::unique_ptr<FolderLock> hold_checkpoints(const fs::path& folder, const fs::path& run) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored) || fs::equivalent(folder, run, ignored)) return nullptr;
  try {
    return std::make_unique<FolderLock>(folder);
  } catch (const IoError& error) {
    if (error.code() == EWOULDBLOCK) throw;
    return nullptr;
  }
}

void make_folder(const fs::path& folder) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) throw IoError(concat("cannot be made: ", failed.message()), EIO);
}

std::string named(const fs::path& folder) { return concat("run.directory (", folder.string(), ")"); }

}  // namespace

RunLock::RunLock(const fs::path& folder, const ProcessMesh& mesh, Logger& log) : folder_(folder), log_(log) {
  const fs::path checkpoints = RunPaths(folder).checkpoints();
  bool is_in_use = false;
  fs::path asked = folder;  // whose lock
  std::string failed;
  try {
    if (mesh.rank() == 0) {
      make_folder(folder);
      own_ = std::make_unique<FolderLock>(folder);
      asked = checkpoints;
      checkpoints_ = hold_checkpoints(checkpoints, folder);
      asked = RunPaths(folder).lock();
      lock_ = std::make_unique<FileLock>(asked);  // the first to be made: where another job holds it, it is there
      asked = checkpoints;
      std::error_code ignored;
      fs::create_directories(checkpoints, ignored);
      if (!checkpoints_) checkpoints_ = hold_checkpoints(checkpoints, folder);
    }
  } catch (const IoError& error) {  // the contract: rank 0's trouble is everybody's
    is_in_use = error.code() == EWOULDBLOCK;
    if (has_no_locks(error)) {
      log_.warning(concat(error.what(), ": this file system has no locks, so that nothing keeps a second job out of ", named(folder),
                          ". Take care that one at a time uses it"));
    } else if (is_in_use && asked == checkpoints) {
      std::error_code ignored;
      failed = concat(named(folder), ": ", checkpoints.string(), " leads to ", fs::canonical(checkpoints, ignored).string(),
                      ", which another job uses for its checkpoints: wait for it, or give each run a folder of its own");
    } else if (is_in_use) {
      failed = concat(named(folder), " is in use by another job: wait for it, or choose another one");
    } else {
      failed = concat(named(folder), ": ", error.what());
    }
  }
  const std::string agreed = mesh.control().agree(failed);
  if (agreed.empty()) return;
  if (mesh.control().broadcast_text(is_in_use ? "in use" : "", 0).empty()) throw IoError(agreed, EIO);
  throw ConfigError(agreed);
}

std::string RunLock::trouble() {
  const PatientOperation on_files;
  if (!own_ || (lock_ ? lock_->is_in_place() : own_->is_in_place())) return "";
  const fs::path file = RunPaths(folder_).lock();
  if (own_->is_in_place()) {
    try {
      lock_ = std::make_unique<FileLock>(file);
      log_.warning(concat(file.string(), " was removed or replaced while this run was using it, and is made and locked again: it ",
                          "keeps other jobs out of the folder. Leave it there while a job runs"));
      return "";
    } catch (const IoError&) {  // another job has it, or it cannot be made: said below
    }
  }
  std::error_code ignored;
  if (!fs::exists(folder_, ignored)) {
    return concat(
        named(folder_),
        " was removed or moved away while this run was using it, and is not made again. Where it was moved, move it back and start "
        "the same command again, which goes on from its newest checkpoint; else choose another one");
  }
  return concat(
      named(folder_), " is not this run's any more: the folder or its file ", file.filename().string(),
      ", which keeps other jobs out, was removed or replaced while this run was using it. Nothing more was written there, because "
      "another job may be using it: see what is in it, then start the same command again, or choose another one");
}

}  // namespace pimoe
