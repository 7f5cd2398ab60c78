#include "ops/cpu_math.h"

#include <vector>

namespace pimoe::cpu {

int64_t order_by_expert(const SlotOrderArguments& a) {
  std::vector<int32_t> next(static_cast<size_t>(a.experts_count) + 1, 0);
  for (int64_t slot = 0; slot < a.slots_count; ++slot) {
    const int32_t expert = a.experts[slot];
    if (expert < -1 || expert >= a.experts_count) return slot;
    if (expert < 0) continue;
    ++next[static_cast<size_t>(expert) + 1];
  }
  for (int64_t expert = 0; expert < a.experts_count; ++expert) {
    a.counts[expert] = next[static_cast<size_t>(expert) + 1];
    next[static_cast<size_t>(expert) + 1] += next[static_cast<size_t>(expert)];
  }
  for (int64_t slot = 0; slot < a.slots_count; ++slot) {
    if (a.experts[slot] < 0) continue;
    const int32_t place = next[static_cast<size_t>(a.experts[slot])]++;
    a.slots[place] = static_cast<int32_t>(slot);
    a.positions[slot] = place;
  }
  return -1;
}

}  // namespace pimoe::cpu
