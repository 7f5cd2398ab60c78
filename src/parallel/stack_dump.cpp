#include "parallel/stack_dump.h"

#include "base/text.h"

#include <cxxabi.h>
#include <dirent.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

namespace pimoe {
namespace {

constexpr int kMostThreads = 256;
constexpr int kMostFrames = 64;
constexpr auto kPatienceWithThreads = std::chrono::milliseconds(300);

/// Filled in by the thread itself, in the handler of a signal: nothing else can see its stack.
struct ThreadStack {
  std::atomic<int> thread = 0;
  std::atomic<int> frames = -1;
  std::array<void*, kMostFrames> addresses = {};
};
std::array<ThreadStack, kMostThreads> stacks;

int signal_number() { return SIGRTMIN + 6; }

extern "C" void note_stack(int) {
  const int before = errno;
  const int self = static_cast<int>(::syscall(SYS_gettid));
  for (ThreadStack& stack : stacks) {
    if (stack.thread.load(std::memory_order_acquire) != self) continue;
    stack.frames.store(::backtrace(stack.addresses.data(), kMostFrames), std::memory_order_release);
    break;
  }
  errno = before;
}

std::vector<int> other_threads() {
  std::vector<int> found;
  DIR* folder = ::opendir("/proc/self/task");
  if (folder == nullptr) return found;
  while (const dirent* entry = ::readdir(folder)) {
    const int number = std::atoi(entry->d_name);
    if (number > 0 && number != ::gettid()) found.push_back(number);
  }
  ::closedir(folder);
  return found;
}

std::string line_of(int thread, const char* what) {
  std::string line;
  std::ifstream file(concat("/proc/self/task/", thread, "/", what));
  std::getline(file, line);
  return line;
}

std::string frame_text(void* address) {
  Dl_info place{};
  if (::dladdr(address, &place) == 0 || place.dli_fname == nullptr) return concat(address);
  const auto offset = static_cast<const char*>(address) - static_cast<const char*>(place.dli_fbase);
  std::ostringstream text;
  text << place.dli_fname << "(+0x" << std::hex << offset << ")";
  if (place.dli_sname != nullptr) {
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> name(abi::__cxa_demangle(place.dli_sname, nullptr, nullptr, &status), &std::free);
    text << " " << (status == 0 ? name.get() : place.dli_sname);
  }
  return text.str();
}

}  // namespace

void prepare_stack_dump() {
  std::array<void*, 4> frames;
  static_cast<void>(::backtrace(frames.data(), static_cast<int>(frames.size())));  // loads libgcc now
  struct sigaction action = {};
  action.sa_handler = note_stack;
  action.sa_flags = SA_RESTART;
  ::sigaction(signal_number(), &action, nullptr);
}

bool write_stacks(const std::filesystem::path& file, const std::string& heading) {
  const std::vector<int> threads = other_threads();
  const size_t asked = std::min(threads.size(), stacks.size());
  for (size_t index = 0; index < asked; ++index) {
    stacks[index].frames.store(-1);
    stacks[index].thread.store(threads[index]);
    ::syscall(SYS_tgkill, ::getpid(), threads[index], signal_number());
  }
  const auto deadline = std::chrono::steady_clock::now() + kPatienceWithThreads;
  for (size_t index = 0; index < asked; ++index) {
    while (stacks[index].frames.load(std::memory_order_acquire) < 0 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  std::ofstream out(file);
  out << heading << "\n";
  for (size_t index = 0; index < asked; ++index) {
    const ThreadStack& stack = stacks[index];
    out << "\nthread " << threads[index] << " (" << line_of(threads[index], "comm") << ")";
    const int frames = stack.frames.load(std::memory_order_acquire);
    if (frames < 0) out << ": does not answer; in the kernel: " << line_of(threads[index], "wchan");
    out << "\n";
    for (int frame = 0; frame < frames; ++frame) out << "  " << frame_text(stack.addresses[static_cast<size_t>(frame)]) << "\n";
  }
  if (asked < threads.size()) out << "\nand " << threads.size() - asked << " more threads\n";
  out.close();
  return out.good();
}

}  // namespace pimoe
