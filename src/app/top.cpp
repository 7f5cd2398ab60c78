#include "app/top.h"

#include "app/print_json.h"
#include "base/text.h"
#include "monitor/terminal_frame.h"

#include <CLI/CLI.hpp>

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <iostream>

namespace pimoe {
namespace {

constexpr int kMilliseconds = 1000;                     ///< between frames
constexpr const char* kEnter = "\033[?1049h\033[?25l";  // the other screen, without a cursor
constexpr const char* kLeave = "\033[?25h\033[?1049l";

struct TopOptions {
  std::filesystem::path run;
  bool once = false;
  bool json = false;
};

volatile std::sig_atomic_t is_asked_to_leave = 0;

/// The terminal as this view needs it: keys come at once and are not shown. Whatever ends it, it is put back.
class RawTerminal {
 public:
  RawTerminal() {
    has_input_ = ::tcgetattr(STDIN_FILENO, &before_) == 0;
    if (has_input_) {
      termios raw = before_;
      raw.c_lflag &= static_cast<tcflag_t>(~(ICANON | ECHO));
      ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    std::cout << kEnter << std::flush;
  }
  ~RawTerminal() {
    std::cout << kLeave << std::flush;
    if (has_input_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  bool has_input() const { return has_input_; }

 private:
  termios before_{};
  bool has_input_ = false;
};

TerminalSize size_of_terminal() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) return {};
  return {size.ws_col, size.ws_row};
}

/// Waits for a key, a change of the window, or the next frame. @returns whether to leave
bool wait(bool has_input) {
  pollfd keys{STDIN_FILENO, POLLIN, 0};
  if (::poll(&keys, has_input ? 1 : 0, kMilliseconds) <= 0) return is_asked_to_leave != 0;
  std::array<char, 64> typed{};
  const ssize_t count = ::read(STDIN_FILENO, typed.data(), typed.size());
  if (count <= 0) return true;  // the terminal is gone
  return std::any_of(typed.begin(), typed.begin() + count, [](char key) { return key == 'q' || key == 'Q' || key == 3 || key == 4; });
}

/// Draws over the frame before, without clearing the screen: that would flicker.
std::string drawn_over(const std::string& frame) {
  std::string text = "\033[H";
  for (const char letter : frame) text += letter == '\n' ? std::string("\033[K\r\n") : std::string(1, letter);
  return text + "\033[J";
}

ExitCode top(const TopOptions& options) {
  RunWatcher watcher(options.run);
  if (options.json) {
    print_json(to_json(watcher.look()));
    return ExitCode::kDone;
  }
  const bool has_terminal = ::isatty(STDOUT_FILENO) != 0;
  if (options.once || !has_terminal) {
    TerminalSize size = size_of_terminal();
    if (!has_terminal) size = {100, 60};
    std::cout << to_frame(watcher.look(), size, has_terminal);
    return ExitCode::kDone;
  }
  struct sigaction action {};
  action.sa_handler = [](int) { is_asked_to_leave = 1; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
  action.sa_handler = [](int) {};  // ends the wait, and the next frame has the new size
  ::sigaction(SIGWINCH, &action, nullptr);
  const RawTerminal terminal;
  do {
    TerminalSize size = size_of_terminal();
    const bool has_room = size.rows > 2;
    size.rows -= has_room ? 1 : 0;
    std::string frame = drawn_over(to_frame(watcher.look(), size, /*colours=*/true));
    if (has_room) frame += concat("\033[", size.rows + 1, ";1H\033[2mq quits\033[0m\033[K");
    std::cout << frame << std::flush;
  } while (is_asked_to_leave == 0 && !wait(terminal.has_input()));
  return ExitCode::kDone;
}

}  // namespace

void add_top_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<TopOptions>();
  CLI::App* command =
      app.add_subcommand("top", "Watch a run in the terminal: progress, loss, speed, balance of each layer, events. q quits");
  command->add_option("run", options->run, "the run's folder")->required()->type_name("RUN");
  command->add_flag("--once", options->once, "print one frame and leave; so does a standard output that is no terminal");
  command->add_flag("--json", options->json, "print state, steps, time left and the newest record as JSON, and leave");
  command->footer(
      "Example:\n  pimoe top runs/quickstart\nIt reads the run folder alone, once a second: from any machine that sees it. docs/seeing.md");
  command->callback([options, &context] { context.action = [options] { return top(*options); }; });
}

}  // namespace pimoe
