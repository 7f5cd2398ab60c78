#pragma once

#include "base/errors.h"
#include "base/log.h"

#include <functional>
#include <memory>

namespace CLI {
class App;
}

namespace pimoe {

class MpiSession;
class StopRequest;
class Watchdog;

/// What a subcommand does once the command line has been read.
using Action = std::function<ExitCode()>;

/// What main hands to every subcommand. Each app/<name>.h declares `void add_<name>_command(CLI::App& app, AppContext& context)`, which adds
/// the subcommand with its options and, when it was chosen, sets `action`; main runs it.
struct AppContext {
  Logger& log;
  Action action;
  /// MPI, started at the first call: `data` and `checkpoint` run without it. Main ends it, after an action that returned.
  std::function<MpiSession&()> mpi;
  /// Set where the command line asks for `train`: it listens from main's first line on.
  StopRequest* stop = nullptr;
  /// Of `train` on several ranks. Main's, because it must outlive what an exception unwinds: it says goodbye only after a good end.
  std::shared_ptr<Watchdog> watchdog;
  /// What to tell somebody whose run has no memory left: set where there is a forecast for it.
  std::function<std::string()> memory_advice;
};

}  // namespace pimoe
