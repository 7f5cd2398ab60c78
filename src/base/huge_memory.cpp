#include "base/huge_memory.h"

#include <sys/mman.h>

namespace pimoe {
namespace {

constexpr size_t kStep = size_t{16} << 20;

}  // namespace

void* HugeMemory::grow(size_t bytes) {
  if (bytes <= room_) return begin_;
  const size_t room = (bytes + kStep - 1) / kStep * kStep;
  void* const begin = begin_ == nullptr ? ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                                        : ::mremap(begin_, room_, room, MREMAP_MAYMOVE);
  if (begin == MAP_FAILED) return nullptr;
  ::madvise(begin, room, MADV_HUGEPAGE);  // what refuses it has small pages
  begin_ = begin;
  room_ = room;
  return begin_;
}

void HugeMemory::release() {
  if (begin_ != nullptr) ::munmap(begin_, room_);
  begin_ = nullptr;
  room_ = 0;
}

}  // namespace pimoe
