#pragma once

#include "base/errors.h"
#include "base/log.h"

#include <functional>

namespace CLI {
class App;
}

namespace pimoe {

class MpiSession;
class StopRequest;

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
};

}  // namespace pimoe
