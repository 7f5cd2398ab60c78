#pragma once

#include "base/file_io.h"
#include "base/log.h"
#include "parallel/process_mesh.h"

#include <filesystem>
#include <memory>
#include <string>

namespace pimoe {

/// A run's hold on its folder, for the life of the object: two jobs in one would mix their checkpoints and metrics. Rank 0 holds it for all.
///
/// It holds two locks: that of the folder itself, which goes only with the folder but which not every network file system has, and that of the file
/// `lock` in it, which every one has that has locks at all. So who deletes that file alone lets no second job in, and it is made again. Where there are
/// none it warns, and watches the folder alone.
///
/// A third one is that of `checkpoints`, which it makes: it may be a link, and two runs' links may lead to one folder.
///
/// A job that is refused has made and changed nothing in the folder.
class RunLock {
 public:
  /// Collective. @param folder  made where it is missing
  /// @throws ConfigError where another job holds it, IoError where it cannot be locked: the same on every rank
  RunLock(const std::filesystem::path& folder, const ProcessMesh& mesh, Logger& log);

  /// What became of the folder: it can be removed, moved away or replaced under a job, and another job then begins in one of the same name.
  /// Where only the file `lock` is gone, and nobody else has locked one in its place, it is locked again, and that is said.
  /// @returns "" while the folder is the one that was locked, and on ranks that hold nothing  @cost two system calls on rank 0
  std::string trouble();

 private:
  std::filesystem::path folder_;
  Logger& log_;
  std::unique_ptr<FolderLock> own_;  ///< rank 0 alone, as the next
  std::unique_ptr<FileLock> lock_;
  std::unique_ptr<FolderLock> checkpoints_;
};

}  // namespace pimoe
