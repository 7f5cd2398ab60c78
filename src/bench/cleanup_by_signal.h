#pragma once

#include <functional>
#include <map>
#include <thread>

#include <csignal>

namespace pimoe {

/// While it lives, SIGINT, SIGTERM and SIGHUP run `cleanup` before they end the process as ever: on a thread of its own, so that it may do what a signal's
/// handler must not, while the rest of the process goes on. The same signal again ends the process at once. What is ignored (nohup) stays ignored.
/// One at a time in a process.
class CleanupBySignal {
 public:
  explicit CleanupBySignal(std::function<void()> cleanup);
  /// Signals are as they were.
  ~CleanupBySignal();
  CleanupBySignal(const CleanupBySignal&) = delete;
  CleanupBySignal& operator=(const CleanupBySignal&) = delete;

 private:
  /// Waits for a signal, or for the end of the object.
  void wait();

  std::function<void()> cleanup_;
  std::map<int, struct sigaction> before_;
  std::thread waiting_;
};

}  // namespace pimoe
