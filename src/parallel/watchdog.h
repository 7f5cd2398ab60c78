#pragma once

#include "base/log.h"
#include "parallel/communicator.h"

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>

namespace pimoe {

class WatchHub;
class WatchClient;

/// Ends a job whose ranks die, stop or hang, and says which one, where, and who waits for it.
///
/// Every rank tells rank 0 what it does (base/progress.h), over a TCP connection that is used for nothing else, from a thread that does nothing
/// else: ten times for each limit, at least once a second. watch_verdict.h has the rules. Rank 0 logs one error, all ranks that still run write
/// the stacks of their threads, rank 0 adds the last records of those that do not, and the job ends with exit code 70 (that of the error
/// where a rank left by an exception). When rank 0 itself is gone one of the others does it.
///
/// Training is never made to wait. Where no connection can be made rank 0 warns once, and the run goes on without.
class Watchdog {
 public:
  /// Whether the folder for stacks is this job's alone from the beginning.
  enum class Folder { kOwn, kNotYet };

  /// Collective: one broadcast, one gathering of names. Connections are made beside training.
  /// @param limit   seconds without heartbeat or progress: run.hang_limit, above 0
  /// @param folder  where stacks go; made when there are some, and what was in it before is removed
  /// @param whose   kNotYet: another job may be using it, and it stays as it is until own_folder
  Watchdog(const HostCommunicator& world, double limit, std::filesystem::path folder, Logger& log, Folder whose = Folder::kOwn);
  /// A good end: says goodbye. On rank 0 it returns once all others have, and until then they are watched.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// The folder is this job's from here on.
  void own_folder() { *has_folder_ = true; }

  /// This rank ends by an exception.
  /// @returns whether rank 0's watchdog is there to say so and end the job, with `exit_code`, within about two seconds
  bool leave(const std::string& error, int exit_code);

 private:
  std::shared_ptr<std::atomic<bool>> has_folder_;
  std::unique_ptr<WatchHub> hub_;        ///< on rank 0
  std::unique_ptr<WatchClient> client_;  ///< on the others
};

}  // namespace pimoe
