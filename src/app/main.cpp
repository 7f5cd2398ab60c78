#include "app/bench.h"
#include "app/check.h"
#include "app/checkpoint.h"
#include "app/command.h"
#include "app/data.h"
#include "app/drill.h"
#include "app/evaluate.h"
#include "app/experts.h"
#include "app/export.h"
#include "app/generate.h"
#include "app/import.h"
#include "app/parity.h"
#include "app/prune.h"
#include "app/quantize.h"
#include "app/report.h"
#include "app/serve.h"
#include "app/top.h"
#include "app/train.h"
#include "base/errors.h"
#include "base/text.h"
#include "base/thread_error.h"
#include "base/utf8.h"
#include "parallel/mpi_session.h"
#include "parallel/watchdog.h"
#include "train/stop_request.h"

#include <c10/util/Exception.h>
#include <CLI/CLI.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <string_view>
#include <thread>

namespace pimoe {
namespace {

/// Whether key.path=value may follow a subcommand's configuration.
bool takes_overrides(const CLI::App& command) { return command.get_option_no_throw("overrides") != nullptr; }

/// What CLI11 says, in plain words where its own are a riddle.
std::string words_of(const CLI::ParseError& error, const CLI::App& app) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  const std::string text = error.what();
  if (const size_t end = text.find(": At Most 1 required but received "); end != std::string::npos) {
    const std::string name = text.substr(0, end);
    const CLI::Option* option = command->get_option_no_throw(name);
    const bool may_be_unnamed = option != nullptr && option->get_positional();
    return concat(name, " is given ", text.substr(text.rfind(' ') + 1), " times, and may be given once",
                  may_be_unnamed ? concat(": ", option->get_type_name(), " without ", name, " before it is the same thing") : "");
  }
  std::vector<std::string> taken;
  for (const CLI::Option* option : command->get_options([](const CLI::Option* each) { return each->get_positional(); })) {
    taken.push_back(option->get_type_name() == "TEXT" ? option->get_single_name() : option->get_type_name());
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr || taken.empty()) return text;
  return concat(text, "\nBeside its options pimoe ", command->get_name(), " takes ", join(taken, " "));
}

/// An unknown subcommand or option, with the nearest right one.
std::string suggestion(const CLI::App& app, int argc, char** argv) {
  const CLI::App* level = &app;
  for (int index = 1; index < argc; ++index) {
    const std::string word = argv[index];
    std::vector<std::string> names;
    if (word.rfind("--", 0) == 0) {
      for (const CLI::Option* option : level->get_options()) names.push_back("--" + option->get_single_name());
    } else {
      for (const CLI::App* child : level->get_subcommands(nullptr)) names.push_back(child->get_name());
    }
    if (std::find(names.begin(), names.end(), word) != names.end()) {
      if (word.rfind("--", 0) != 0) level = level->get_subcommand(word);
      continue;
    }
    if (word.rfind("--", 0) == 0 && takes_overrides(*level)) {
      const std::string key = override_instead_of(word, index + 1 < argc ? argv[index + 1] : "");
      if (!key.empty()) return concat("\nKeys of the configuration are given without dashes, as key.path=value: ", key);
    }
    const std::string nearest = nearest_name(word, names);
    if (nearest.empty() && !names.empty() && word[0] != '-') break;
    if (!nearest.empty()) return concat("\n'", word, "' is not known here: did you mean '", nearest, "'?");
  }
  std::vector<std::string> subcommands;
  for (const CLI::App* child : level->get_subcommands(nullptr)) subcommands.push_back(child->get_name());
  return subcommands.empty() ? "" : concat("\nThe subcommands are ", join(subcommands, ", "), ".");
}

/// Commands that run as one process: under mpirun every rank would do the whole work, print it, and write the same files.
constexpr std::array<const char*, 6> kOneProcessCommands = {"data", "checkpoint", "experts", "export", "report", "top"};

/// @throws UsageError where several processes were started of such a command
void require_one_process(const CLI::App& app) {
  const std::string command = app.get_subcommands().front()->get_name();
  if (std::find(kOneProcessCommands.begin(), kOneProcessCommands.end(), command) == kOneProcessCommands.end()) return;
  const int processes = launched_processes([](const char* name) { return std::getenv(name); });
  if (processes == 1) return;
  throw UsageError(
      concat("pimoe ", command, " runs as one process, and ", processes, " were started: start it without mpirun or srun, or with -n 1"));
}

/// The same trouble often strikes every rank at once (a missing file): rank 0 speaks and ends all; a rank alone in trouble speaks a moment
/// later. Leaving quietly would leave its peers waiting.
void let_rank_0_speak_first() {
  if (MpiSession::launcher_rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(3));
}

/// What helps a command that has no memory left, where no forecast of a run says it.
std::string what_helps(const std::string& command) {
  static const std::map<std::string, const char*> kOptions = {
      {"serve", "a smaller --max-batch or --memory-budget (room for keys and values); a smaller --prefill-chunk"},
      {"generate", "a smaller --batch"},
      {"evaluate", "a smaller --micro-batch"}};
  static const std::set<std::string> kTraining = {"train", "parity", "drill", "bench"};
  if (kTraining.contains(command)) {
    return "What helps, cheapest first: a smaller train.micro_batch; train.recompute=moe, then full; more ranks (optimizer state is shared "
           "out over all of them, experts over mesh.expert_parallel); a shorter model.sequence_length.";
  }
  const auto found = kOptions.find(command);
  if (found == kOptions.end()) return "What helps: fewer programs beside this one, or a machine with more memory.";
  return concat("What helps, cheapest first: ", found->second,
                "; more ranks (experts are shared out over them); the model in int8 (pimoe quantize).");
}

/// What went wrong, without the stack frames that libtorch adds, and what to change when memory ran out.
std::string message_of(const std::exception& error, const AppContext& context, const std::string& command) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  const bool out_of_heap = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  const std::string message = of_torch ? of_torch->what_without_backtrace() : out_of_heap ? "" : message_or_thread_advice(error);
  if (!out_of_heap && dynamic_cast<const c10::OutOfMemoryError*>(&error) == nullptr &&
      message.find("you tried to allocate") == std::string::npos) {
    return message;
  }
  std::string help = what_helps(command);
  try {
    if (context.memory_advice) help = context.memory_advice();
  } catch (const std::exception&) {  // no memory for that either
  }
  return concat(message, message.empty() ? "" : "\n", "Out of memory. ", help);
}

/// What was printed must have arrived: a full disk behind a redirection shows here alone. It is an error also where everything else is done, as a script
/// that reads what is printed, often the only word of how much was skipped, would take nothing for an answer; so it is with the tools of the system.
/// @param done  "": what else the command did, for a reader who would begin again
void require_printed(const char* done = "") {
  errno = 0;
  std::cout.flush();
  if (std::cout) return;
  throw IoError(concat("cannot write to the standard output: ", std::strerror(errno == 0 ? EIO : errno), done), EIO);
}

/// Ends the job with what went wrong. @returns the exit code
/// @param command  the subcommand
int leave_with(const std::exception& error, const AppContext& context, const std::string& command,
               const std::optional<MpiSession>& session) {
  Logger& log = context.log;
  const int code = static_cast<int>(exit_code(error));
  const std::string message = message_of(error, context, command);
  if (context.watchdog && context.watchdog->leave(message, code)) {
    log.debug(error.what());                               // into this rank's file, whole and with libtorch's stack frames
    std::this_thread::sleep_for(std::chrono::seconds(8));  // the watchdog says on which rank and where, and ends the job before that
  } else {
    let_rank_0_speak_first();
  }
  log.error(message);
  if (dynamic_cast<const c10::Error*>(&error) != nullptr) log.debug(error.what());  // with its stack frames, into this rank's file
  if (session && session->size() > 1) MpiSession::abort(code);
  return code;
}

/// A process may be started without standard streams (`>&-`, some daemons): the first files that it opens would be taken for them, and what is printed
/// go into these. Where one is missing nothing can be read or written, as before.
void keep_standard_descriptors_taken() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // The lowest that is free is the one that is opened.
    if (::fcntl(descriptor, F_GETFD) < 0) static_cast<void>(::open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY));
  }
}

int run(int argc, char** argv) {
  keep_standard_descriptors_taken();
  // Beyond a limit on file sizes (ulimit -f, which Slurm hands on) write() is then an error like that of a full disk, and not the process' end.
  std::signal(SIGXFSZ, SIG_IGN);
  // First of all: a signal that comes while the configuration is read or MPI starts is kept, and the run leaves after its first step.
  std::optional<StopRequest> stop;
  if (argc > 1 && std::string_view(argv[1]) == "train") stop.emplace();
  Logger log(MpiSession::launcher_rank());
  std::optional<MpiSession> session;
  AppContext context{
      log,     {},     [&]() -> MpiSession& { return session ? *session : session.emplace(argc, argv); }, stop ? &*stop : nullptr,
      nullptr, nullptr};
  CLI::App app{"PiMoE: trains Mixture-of-Experts language models under mpirun or srun", "pimoe"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "pimoe " PIMOE_VERSION);
  app.footer("Example:\n  mpirun -n 2 pimoe train configs/quickstart.yaml train.steps=500");
  add_train_command(app, context);
  add_check_command(app, context);
  add_data_command(app, context);
  add_checkpoint_command(app, context);
  add_experts_command(app, context);
  add_report_command(app, context);
  add_top_command(app, context);
  add_generate_command(app, context);
  add_evaluate_command(app, context);
  add_serve_command(app, context);
  add_import_command(app, context);
  add_export_command(app, context);
  add_quantize_command(app, context);
  add_prune_command(app, context);
  add_parity_command(app, context);
  add_drill_command(app, context);
  add_bench_command(app, context);
  try {
    // CLI11 would print the general help for `pimoe trian --help`.
    const auto is_named = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
    if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(is_named).empty()) throw CLI::ExtrasError({argv[1]});
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      if (MpiSession::launcher_rank() != 0) return 0;
      try {
        const int code = app.exit(error);
        require_printed();
        return code;
      } catch (const IoError& lost) {
        return leave_with(lost, context, "", session);
      }
    }
    let_rank_0_speak_first();
    std::cerr << "pimoe: " << printable(concat(words_of(error, app), suggestion(app, argc, argv)), /*keep_lines=*/true)
              << "\nRun 'pimoe --help' or 'pimoe SUBCOMMAND --help'.\n";
    return static_cast<int>(ExitCode::kUsage);
  }

  try {
    require_one_process(app);
    const ExitCode code = context.action();
    require_printed(". The command came to its end, and what it makes is complete: only what it prints is lost");
    return static_cast<int>(code);
  } catch (const std::exception& error) {
    return leave_with(error, context, app.get_subcommands().front()->get_name(), session);
  }
}

}  // namespace
}  // namespace pimoe

int main(int argc, char** argv) { return pimoe::run(argc, argv); }
