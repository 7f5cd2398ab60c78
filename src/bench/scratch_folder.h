#pragma once

#include "base/file_io.h"
#include "bench/cleanup_by_signal.h"
#include "parallel/process_mesh.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// RUN/.pimoe-bench: what a benchmark writes, on the file system that a run would write to. Gone afterwards, also where a
/// signal ends the benchmark, and with it the folders above that were not there.
class ScratchFolder {
 public:
  /// What an earlier benchmark that was killed left there is removed. Collective.
  /// @throws ConfigError if another benchmark is at work there; IoError, also if something else has that name
  ScratchFolder(const std::filesystem::path& run_folder, const ProcessMesh& mesh);
  /// Rank 0's removes it: the others are done with it when a measurement, which is collective, has ended.
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// A file of this rank's own.
  std::filesystem::path own_file() const { return path_ / ("rank-" + std::to_string(rank_)); }

 private:
  void remove() const;

  std::filesystem::path path_;
  int rank_;
  std::vector<std::filesystem::path> made_;       ///< rank 0's: folders above that were not there, innermost first
  std::unique_ptr<FileLock> lock_;                ///< rank 0's
  std::unique_ptr<CleanupBySignal> ended_early_;  ///< likewise
};

}  // namespace pimoe
