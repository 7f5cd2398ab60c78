#pragma once

#include "base/file_io.h"
#include "parallel/process_mesh.h"

#include <filesystem>
#include <memory>
#include <string>

namespace pimoe {

/// A run's hold on its folder, for the life of the object: two jobs in one would mix their checkpoints and metrics. Rank 0 holds it for all.
class RunLock {
 public:
  /// Collective. @param folder  must be there
  /// @throws ConfigError where another job holds it, IoError where it cannot be locked: the same on every rank
  RunLock(const std::filesystem::path& folder, const ProcessMesh& mesh);

  /// What became of the folder: it can be removed, moved away or replaced under a job, and another job then begins in one of the same name.
  /// @returns "" while it is the one that was locked, and on ranks that hold nothing  @cost two system calls on rank 0
  std::string trouble() const;

 private:
  std::filesystem::path folder_;
  std::unique_ptr<FileLock> lock_;  ///< rank 0 alone
};

}  // namespace pimoe
