#pragma once

#include <cstddef>

namespace pimoe {

/// One stretch of zeroed memory that grows in place or moves, in huge pages where the system has them: a page fault for each 4 KiB takes longer
/// than copying into it.
class HugeMemory {
 public:
  HugeMemory() = default;
  ~HugeMemory() { release(); }
  HugeMemory(const HugeMemory&) = delete;
  HugeMemory& operator=(const HugeMemory&) = delete;

  /// @returns where it is now, with room for `bytes`; what was in it has come along. nullptr, and nothing has changed, where there is no memory.
  void* grow(size_t bytes);
  void release();

 private:
  void* begin_ = nullptr;
  size_t room_ = 0;
};

}  // namespace pimoe
