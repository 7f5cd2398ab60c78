#include "train/stop_request.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <initializer_list>
#include <string>

namespace pimoe {
namespace {

constexpr double kSaveMargin = 1.25;  // of what the longest save so far took

volatile std::sig_atomic_t stop_raised = 0;  // a signal handler can reach nothing else

extern "C" void raise_stop(int number) {
  stop_raised = 1;
  if (number == SIGINT) std::signal(SIGINT, SIG_DFL);
}

bool is_ignored(int number) {
  struct sigaction now = {};
  sigaction(number, nullptr, &now);
  return now.sa_handler == SIG_IGN;
}

}  // namespace

StopRequest::StopRequest() {
  stop_raised = 0;
  struct sigaction action = {};
  action.sa_handler = raise_stop;
  action.sa_flags = SA_RESTART;
  sigset_t heard;
  sigset_t before;
  sigemptyset(&heard);
  for (const int number : {SIGUSR1, SIGUSR2, SIGTERM, SIGHUP, SIGINT}) {
    if (number == SIGHUP && is_ignored(number)) continue;  // nohup: the run outlives its terminal
    sigaction(number, &action, nullptr);
    sigaddset(&heard, number);
  }
  pthread_sigmask(SIG_UNBLOCK, &heard, &before);
  was_blocked_ = sigismember(&before, SIGUSR1) == 1;
}

StopRequest::~StopRequest() {
  std::signal(SIGINT, SIG_DFL);
  // A late one (Slurm and mpirun may each forward one) must not kill a process that is already leaving in good order.
  for (const int number : {SIGUSR1, SIGUSR2, SIGTERM, SIGHUP}) std::signal(number, SIG_IGN);
}

void StopRequest::raise_after(double seconds, double margin) {
  margin_ = margin;
  deadline_.reset();
  if (seconds > 0)
    deadline_ = begun_ + std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
}

bool StopRequest::out_of_time(double save_seconds) const {
  const double earlier = std::max(0.0, kSaveMargin * save_seconds - margin_);
  return deadline_ && std::chrono::steady_clock::now() + std::chrono::duration<double>(earlier) >= *deadline_;
}

bool StopRequest::signalled() const { return stop_raised != 0; }

std::filesystem::path parent_process() { return std::filesystem::path("/proc") / std::to_string(getppid()); }

bool keeps_sigusr1(const std::filesystem::path& process) {
  std::string name;
  std::getline(std::ifstream(process / "comm"), name);
  if (name != "mpirun" && name != "mpiexec" && name != "orterun") return false;
  std::ifstream maps(process / "maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("/libLLVM") != std::string::npos) return true;
  }
  return false;
}

}  // namespace pimoe
