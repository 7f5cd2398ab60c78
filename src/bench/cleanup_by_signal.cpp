#include "bench/cleanup_by_signal.h"

#include "base/errors.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <initializer_list>
#include <utility>

namespace pimoe {
namespace {

/// From the handler to the thread: a signal's number, 0 for the end. Never closed: a handler that runs on another thread may still be about to write.
int pipe_ends[2] = {-1, -1};
std::atomic<int> handlers_end = -1;  // a signal handler can reach nothing else
static_assert(std::atomic<int>::is_always_lock_free);

void send(int end, int number) {
  const auto byte = static_cast<unsigned char>(number);
  static_cast<void>(::write(end, &byte, 1) == 1);  // a pipe that is full has signals enough
}

extern "C" void pass_on(int number) {
  const int error = errno;
  send(handlers_end, number);
  errno = error;
}

}  // namespace

CleanupBySignal::CleanupBySignal(std::function<void()> cleanup) : cleanup_(std::move(cleanup)) {
  if (pipe_ends[0] < 0 && ::pipe2(pipe_ends, O_CLOEXEC) != 0) throw IoError("cannot make a pipe", errno);
  handlers_end = pipe_ends[1];
  waiting_ = std::thread([this] { wait(); });
  struct sigaction action = {};
  action.sa_handler = pass_on;
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction now = {};
    ::sigaction(number, nullptr, &now);
    if (now.sa_handler == SIG_IGN) continue;
    before_[number] = now;
    ::sigaction(number, &action, nullptr);
  }
}

CleanupBySignal::~CleanupBySignal() {
  for (const auto& [number, action] : before_) ::sigaction(number, &action, nullptr);
  send(pipe_ends[1], 0);
  waiting_.join();
}

void CleanupBySignal::wait() {
  unsigned char number = 0;
  while (::read(pipe_ends[0], &number, 1) < 0 && errno == EINTR) {
  }
  if (number == 0) return;
  cleanup_();
  std::signal(number, SIG_DFL);
  ::kill(::getpid(), number);
}

}  // namespace pimoe
