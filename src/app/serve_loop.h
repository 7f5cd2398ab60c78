#pragma once

#include "base/log.h"
#include "serve/completion_service.h"
#include "serve/engine.h"
#include "serve/http_server.h"
#include "serve/serve_monitor.h"

#include <exception>
#include <filesystem>
#include <future>
#include <mutex>

namespace pimoe {

/// Signals that a server is steered by: SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 (what mpirun and srun forward) to leave, SIGHUP to look for a newer checkpoint.
///
/// They are blocked for the whole process, and taken by whoever waits for one. Made before any thread starts, MPI's among them: a thread that does
/// not block them would be killed in their place.
class ServeSignals {
 public:
  ServeSignals();
  /// @returns the signal that came, or 0 after `seconds` without one
  int wait(double seconds) const;
};

/// What the engine's thread hands over when a step has failed. Thread-safe.
class EngineFailure {
 public:
  void set(std::exception_ptr failure);
  std::exception_ptr get() const;

 private:
  mutable std::mutex mutex_;
  std::exception_ptr failure_;
};

struct ServeLoopOptions {
  std::filesystem::path checkpoint;  ///< as given: a run folder's newest good checkpoint may change
  double reload_seconds = 0.0;       ///< between looks for a newer one; 0: at SIGHUP alone
  double drain_seconds = 30.0;       ///< that running requests have, once it is asked to leave
};

/// Serves until a signal or an alert says to leave; returns when running requests have ended, or were cancelled after drain_seconds, or at a SIGTERM or
/// SIGINT that comes then.
/// @throws what the engine failed with, also where that was while running requests ended
void serve_until_told(const ServeLoopOptions& options, const ServeSignals& signals, Engine& engine, const EngineFailure& failure,
                      CompletionService& service, HttpServer& server, ServeMonitor& monitor, Logger& log);

}  // namespace pimoe
