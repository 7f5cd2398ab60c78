#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

namespace pimoe {

/// "Save and leave" by signal: SIGUSR1 (what Slurm and mpirun forward), SIGUSR2 (which a deaf mpirun forwards still: below), SIGTERM, SIGHUP (the
/// terminal closes; not where it was ignored before, as by nohup), and the first Ctrl-C. A second Ctrl-C ends the process at once.
/// Or by the clock: once the time that the job has is nearly over. A process may inherit a mask that blocks these signals: they are let through.
///
/// One at a time in a process. The signal may reach some ranks alone, and twice: the trainer lets all ranks agree at each step.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  /// From now on the request is raised once this object is `seconds` old. 0: never by the clock.
  /// @param margin  seconds that follow, in which the run saves and leaves
  void raise_after(double seconds, double margin = 0.0);

  /// Whether this process was asked to stop. @param save_seconds  that the save takes with which it leaves: where the margin is too small, it is earlier
  bool raised(double save_seconds = 0.0) const { return signalled() || out_of_time(save_seconds); }
  bool signalled() const;
  /// Whether what started this process had blocked SIGUSR1: then its launcher may not hear it either.
  bool was_blocked() const { return was_blocked_; }
  bool out_of_time(double save_seconds = 0.0) const;

 private:
  bool was_blocked_ = false;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::optional<std::chrono::steady_clock::time_point> deadline_;
  double margin_ = 0.0;
};

/// Whether the mpirun that started this process has LLVM in it: hwloc's OpenCL plugin loads it where PoCL is installed, and its handler then takes
/// SIGUSR1 from mpirun, which passes it on to no rank. False where that cannot be seen. @param process  to ask, as a folder of /proc
bool keeps_sigusr1(const std::filesystem::path& process);
/// @returns the folder in /proc of the process that started this one
std::filesystem::path parent_process();

}  // namespace pimoe
