#include "parallel/host_device.h"

#include "base/text.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace pimoe {
namespace {

/// @returns what follows the colon in the first line of `file` that begins with `key`, without leading blanks; "" if there is none.
std::string value_in(const char* file, const std::string& key) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

int64_t status_bytes(const std::string& key) {
  const std::string kilobytes = value_in("/proc/self/status", key);
  return kilobytes.empty() ? 0 : std::stoll(kilobytes) * 1024;
}

std::string lower_case(const char* name) {
  const char* value = std::getenv(name);
  std::string text = value == nullptr ? "" : value;
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return text;
}

/// Whether the user holds libtorch or oneDNN to instructions without bfloat16 products.
bool bfloat16_is_switched_off() {
  const std::string capability = lower_case("ATEN_CPU_CAPABILITY");
  if (capability == "default" || capability == "avx2") return true;
  for (const char* name : {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"}) {
    const std::string limit = lower_case(name);
    const bool has_bfloat16 = limit.find("bf16") != std::string::npos || limit.find("fp16") != std::string::npos ||
                              limit.find("amx") != std::string::npos || limit.find("avx10") != std::string::npos;
    if (!limit.empty() && limit != "default" && limit != "all" && !has_bfloat16) return true;
  }
  return false;
}

#if defined(__x86_64__)
/// The kernel must save the tile registers, too: XCR0 bits 17 and 18.
bool has_amx_bfloat16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & bit_OSXSAVE) == 0) return false;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kAmxBfloat16 = 1u << 22;
  constexpr unsigned kTileState = 3u << 17;
  unsigned xcr0 = 0, upper = 0;
  __asm__("xgetbv" : "=a"(xcr0), "=d"(upper) : "c"(0));
  return (edx & kAmxBfloat16) != 0 && (xcr0 & kTileState) == kTileState;
}
#endif

/// Has the heap grow once, to half of what the machine has free, and asks for huge pages in all of it: what the kernel adds later would have
/// small ones, through which a core reads and writes memory at half the speed. Costs addresses, no memory: a page is there once it is written to.
void ask_for_huge_pages() {
  constexpr uintptr_t kSmallPage = 4096;
  if (mallinfo2().uordblks == 0) return;  // another allocator took malloc's place
  struct rlimit addresses {};
  if (::getrlimit(RLIMIT_AS, &addresses) != 0 || addresses.rlim_cur != RLIM_INFINITY) return;  // others need them more
  int overcommit = 0;
  std::ifstream("/proc/sys/vm/overcommit_memory") >> overcommit;
  if (overcommit == 2) return;  // addresses count as memory there: other processes would lack what nobody uses
  const auto bytes = static_cast<size_t>(host_free_bytes() / 2);
  void* const room = std::malloc(bytes);
  if (room == nullptr) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(room) / kSmallPage * kSmallPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(room) + bytes) / kSmallPage * kSmallPage;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // what refuses it has small pages
  std::free(room);                                                                         // stays the heap's: nothing is given back
}

/// Tensors' memory, from malloc. libtorch's own allocator asks for aligned blocks, and for those glibc wants room for the block and its
/// alignment too: it never takes what a block of the same size has just left, and the heap grows with every step over holes that nothing fits into.
///
///     malloc's block | 8 to 56 bytes | where the block begins, 8 bytes | the tensor, aligned to 64 ...
class HostAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* const begin = bytes == 0 ? nullptr : aligned(bytes);
    return {begin, begin, &release, c10::DeviceType::CPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static constexpr size_t kAlignment = 64;

  static void* aligned(size_t bytes) {
    static_assert(alignof(std::max_align_t) >= sizeof(void*), "there is no room before the tensor");
    char* const block = bytes > PTRDIFF_MAX - kAlignment ? nullptr : static_cast<char*>(std::malloc(bytes + kAlignment));
    TORCH_CHECK_WITH(OutOfMemoryError, block != nullptr, "cannot have ", bytes, " bytes of memory for a tensor");
    char* const begin = block + kAlignment - reinterpret_cast<uintptr_t>(block) % kAlignment;
    std::memcpy(begin - sizeof(void*), &block, sizeof(void*));
    return begin;
  }
  static void release(void* begin) {
    if (begin == nullptr) return;
    void* block = nullptr;
    std::memcpy(&block, static_cast<char*>(begin) - sizeof(void*), sizeof(void*));
    std::free(block);
  }
};

}  // namespace

void use_host() {
  // oneDNN compiles and keeps a kernel for each shape, by default 1024 of them at a megabyte each; a MoE layer has another number of rows
  // for each expert in each step, so that nearly none of those is ever used again. Read at its first product; the user's own value holds.
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64", /*overwrite=*/0);
  // A program that has an allocator of its own keeps it. Ours is never destroyed: threads may outlive what is static.
  if (c10::GetCPUAllocator() == c10::GetDefaultCPUAllocator()) c10::SetCPUAllocator(new HostAllocator);
  // A step's tensors are freed and asked for again in the next: given back to the kernel in between, each page would be zeroed and mapped anew.
  // The price: what a run needs once it holds to its end. The user's own settings hold.
  const char* tunables = std::getenv("GLIBC_TUNABLES");
  const bool set_by_user = std::getenv("MALLOC_MMAP_MAX_") != nullptr || std::getenv("MALLOC_MMAP_THRESHOLD_") != nullptr ||
                           std::getenv("MALLOC_TRIM_THRESHOLD_") != nullptr ||
                           (tunables != nullptr && std::string(tunables).find("malloc") != std::string::npos);
  if (set_by_user) return;
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  static const bool once = (ask_for_huge_pages(), true);
  static_cast<void>(once);
}

std::string host_name_of_cpu() {
  const std::string name = value_in("/proc/cpuinfo", "model name");
  return name.empty() ? "CPU" : name;
}

MemoryUse host_memory_use() {
  const struct mallinfo2 heap = mallinfo2();
  MemoryUse use;
  use.now_bytes = static_cast<int64_t>(heap.uordblks + heap.hblkhd);
  if (use.now_bytes == 0) use.now_bytes = status_bytes("VmRSS");  // another allocator took malloc's place (sanitizers)
  use.peak_bytes = status_bytes("VmHWM");
  return use;
}

void forget_host_peak_memory() {
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak resident set alone; where it may not be written the peak stays the process'
}

int64_t free_in_control_groups(std::istream& membership, const std::filesystem::path& root) {
  int64_t free = std::numeric_limits<int64_t>::max();
  for (std::string line; std::getline(membership, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = concat(",", line.substr(first + 1, second - first - 1), ",");
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",memory,") == std::string::npos) continue;
    const std::filesystem::path top = unified ? root : root / "memory";
    // The limit of every group above holds too. A container sees its own group at the top, and there may be no folder of the name outside.
    for (std::filesystem::path inside = std::filesystem::path(line.substr(second + 1)).relative_path();; inside = inside.parent_path()) {
      const std::filesystem::path group = inside.empty() ? top : top / inside;
      int64_t limit = 0, used = 0, cached = 0;
      if (std::ifstream(group / (unified ? "memory.max" : "memory.limit_in_bytes")) >> limit &&
          std::ifstream(group / (unified ? "memory.current" : "memory.usage_in_bytes")) >> used) {
        std::ifstream statistics(group / "memory.stat");  // pages of files make room for whoever needs it
        const std::string key_of_files = unified ? "inactive_file" : "total_inactive_file";
        for (std::string key; statistics >> key >> cached && key != key_of_files;) cached = 0;
        free = std::min(free, std::max<int64_t>(0, limit - std::max<int64_t>(0, used - cached)));
      }
      if (inside.empty()) break;
    }
  }
  return free;
}

int64_t host_free_bytes() {
  const std::string kilobytes = value_in("/proc/meminfo", "MemAvailable");
  int64_t free = kilobytes.empty() ? 0 : std::stoll(kilobytes) * 1024;
  // A container, and a Slurm job with a limit, see the whole machine's memory there.
  std::ifstream membership("/proc/self/cgroup");
  free = std::min(free, free_in_control_groups(membership, "/sys/fs/cgroup"));
  return free;
}

int64_t free_addresses() {
  struct rlimit addresses {};
  if (::getrlimit(RLIMIT_AS, &addresses) != 0 || addresses.rlim_cur == RLIM_INFINITY) return std::numeric_limits<int64_t>::max();
  return std::max<int64_t>(0, static_cast<int64_t>(addresses.rlim_cur) - status_bytes("VmSize"));
}

bool host_has_fast_bfloat16() {
#if defined(__x86_64__)
  return (__builtin_cpu_supports("avx512bf16") || has_amx_bfloat16()) && !bfloat16_is_switched_off();
#else
  return false;
#endif
}

}  // namespace pimoe
