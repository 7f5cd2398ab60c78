#pragma once

#include <cstdint>
#include <vector>

#include "data/number_table.h"

namespace pimoe {

/// Byte-pair encoding's merges: of all neighbours that may be merged, those of the lowest rank are, the leftmost first, until none may.
class PairMerges {
 public:
  /// A pair that is added again takes the later rank.
  void add(int32_t left, int32_t right, uint32_t rank, int32_t merged);

  /// Merges a word's symbols in place.
  /// @cost  for up to 32 symbols their square; for more, n log n and 40 bytes a symbol
  void apply(std::vector<int32_t>& symbols) const;

 private:
  struct Merge {
    uint32_t rank = 0;
    int32_t merged = 0;
  };
  static constexpr uint32_t kNoRank = UINT32_MAX;
  /// @returns the rank kNoRank for a pair that may not be merged
  Merge find(int32_t left, int32_t right) const;
  void apply_to_short(std::vector<int32_t>& symbols) const;
  void apply_to_long(std::vector<int32_t>& symbols) const;

  NumberTable merges_;  ///< left << 32 | right -> rank << 32 | merged
};

}  // namespace pimoe
