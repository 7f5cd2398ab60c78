#include "train/run_lock.h"

#include "base/errors.h"
#include "base/text.h"

#include <cerrno>
#include <system_error>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockFile = "lock";

std::string named(const fs::path& folder) { return concat("run.directory (", folder.string(), ")"); }

}  // namespace

RunLock::RunLock(const fs::path& folder, const ProcessMesh& mesh) : folder_(folder) {
  bool is_in_use = false;
  std::string failed;
  try {
    if (mesh.rank() == 0) lock_ = std::make_unique<FileLock>(folder / kLockFile);
  } catch (const IoError& error) {  // the contract: rank 0's trouble is everybody's
    is_in_use = error.code() == EWOULDBLOCK;
    failed = is_in_use ? concat(named(folder), " is in use by another job: wait for it, or choose another one")
                       : concat(named(folder), ": ", error.what());
  }
  const std::string agreed = mesh.control().agree(failed);
  if (agreed.empty()) return;
  if (mesh.control().broadcast_text(is_in_use ? "in use" : "", 0).empty()) throw IoError(agreed, EIO);
  throw ConfigError(agreed);
}

std::string RunLock::trouble() const {
  if (!lock_ || lock_->is_in_place()) return "";
  std::error_code ignored;
  if (!fs::exists(folder_, ignored)) {
    return concat(
        named(folder_),
        " was removed or moved away while this run was using it, and is not made again. Where it was moved, move it back and start "
        "the same command again, which goes on from its newest checkpoint; else choose another one");
  }
  return concat(
      named(folder_), " is not this run's any more: the folder or its file ", kLockFile,
      ", which keeps other jobs out, was removed or replaced while this run was using it. Nothing more was written there, because "
      "another job may be using it: see what is in it, then start the same command again, or choose another one");
}

}  // namespace pimoe
