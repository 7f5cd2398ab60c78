#pragma once

namespace pimoe {

/// "Save and leave" by signal: SIGUSR1 (what Slurm and mpirun forward), SIGTERM, and the first Ctrl-C. A second Ctrl-C ends the process at once.
///
/// One at a time in a process. The signal may reach some ranks alone, and twice: the trainer lets all ranks agree at each step.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  /// Whether this process was asked to stop.
  bool raised() const;
};

}  // namespace pimoe
