#include "parallel/watch_presence.h"

#include "base/host.h"
#include "base/text.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>

namespace pimoe {
namespace {

/// What /proc/PID/stat has behind the name, which may hold anything: the state, then numbers.
struct ProcessState {
  char letter = 0;
  uint64_t started = 0;
};

constexpr size_t kStartedAt = 19;  // fields behind the state's

std::optional<ProcessState> state_of(int pid) {
  std::string line;
  std::getline(std::ifstream(concat("/proc/", pid, "/stat")), line);
  const size_t behind_name = line.rfind(") ");
  if (behind_name == std::string::npos) return std::nullopt;
  const std::vector<std::string> fields = split(line.substr(behind_name + 2), ' ');
  if (fields.size() <= kStartedAt || fields.front().empty()) return std::nullopt;
  return ProcessState{fields.front().front(), std::strtoull(fields[kStartedAt].c_str(), nullptr, 10)};
}

uint64_t this_machine() {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  std::error_code failed;
  const std::string numbers = std::filesystem::read_symlink("/proc/self/ns/pid", failed).string();
  return boot.empty() || failed ? 0 : std::hash<std::string>()(boot + numbers);
}

}  // namespace

RankName own_name(int rank) {
  RankName name;
  name.rank = rank;
  name.pid = ::getpid();
  std::snprintf(name.host.data(), name.host.size(), "%s", host_name().c_str());
  name.machine = this_machine();
  if (const auto state = state_of(name.pid)) name.started = state->started;
  return name;
}

Presence presence_of(const RankName& name, const RankName& self) {
  if (name.machine == 0 || name.machine != self.machine || name.pid <= 0) return Presence::kUnknown;
  if (::kill(name.pid, 0) != 0 && errno == ESRCH) return Presence::kGone;
  const auto state = state_of(name.pid);
  if (!state) return ::kill(name.pid, 0) != 0 && errno == ESRCH ? Presence::kGone : Presence::kThere;
  if (name.started != 0 && state->started != name.started) return Presence::kGone;  // its number is another's by now
  switch (state->letter) {
    case 'Z':
    case 'X': return Presence::kGone;  // dead, and nobody has taken note of it yet
    case 'T':
    case 't': return Presence::kStopped;
    default: return Presence::kThere;
  }
}

}  // namespace pimoe
