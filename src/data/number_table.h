#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pimoe {

/// A map from numbers to numbers that is filled once and looked up often: open addressing, at most half full.
class NumberTable {
 public:
  /// REQUIRES key != UINT64_MAX. A key that is there keeps its place and takes the new value.
  void put(uint64_t key, uint64_t value) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[place_of(key)];
    if (slot.key == kNone) ++count_;
    slot = {key, value};
  }

  /// @returns the value, or null; until the next put
  const uint64_t* find(uint64_t key) const {
    if (slots_.empty()) return nullptr;
    const Slot& slot = slots_[place_of(key)];
    return slot.key == kNone ? nullptr : &slot.value;
  }

 private:
  static constexpr uint64_t kNone = UINT64_MAX;
  struct Slot {
    uint64_t key = kNone;
    uint64_t value = 0;
  };

  size_t place_of(uint64_t key) const {
    uint64_t mixed = key * 0x9E3779B97F4A7C15u;
    mixed ^= mixed >> 32;
    size_t place = mixed & (slots_.size() - 1);
    while (slots_[place].key != kNone && slots_[place].key != key) place = (place + 1) & (slots_.size() - 1);
    return place;
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 16 : 2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.key != kNone) slots_[place_of(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;  ///< as many as a power of two
  size_t count_ = 0;
};

}  // namespace pimoe
