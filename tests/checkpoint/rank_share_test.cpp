#include "checkpoint/rank_share.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

// 300 elements over four ranks: 128 each, which are whole cache lines, so that the last rank has none.
TEST(RankShare, ADenseTensorIsCutAtWholeCacheLines) {
  const std::vector<int64_t> ends = {128, 256, 300, 300};
  for (int64_t rank = 0; rank < 4; ++rank) {
    const Piece piece = share_of_rank("layers.0.attention.qkv.weight", {30, 10}, {.ranks = 4, .expert_parallel = 2}, rank);
    EXPECT_EQ(piece.box, Box::whole({30, 10}));
    EXPECT_EQ(piece.begin, rank == 0 ? 0 : ends[static_cast<size_t>(rank) - 1]);
    EXPECT_EQ(piece.end, ends[static_cast<size_t>(rank)]);
  }
}

// Four ranks, two of which share out six experts: ranks 0 and 2 hold experts 0 to 2 (150 elements: 128 and 22), ranks 1 and 3 the others.
TEST(RankShare, ExpertsGoToTheRanksOfTheirShard) {
  for (int64_t rank = 0; rank < 4; ++rank) {
    const Piece piece = share_of_rank("layers.0.moe.experts.down.weight", {6, 10, 5}, {.ranks = 4, .expert_parallel = 2}, rank);
    EXPECT_EQ(piece.box, Box::rows({6, 10, 5}, rank % 2 * 3, 3));
    EXPECT_EQ(piece.begin, rank < 2 ? 0 : 128);
    EXPECT_EQ(piece.end, rank < 2 ? 128 : 150);
  }
}

}  // namespace
}  // namespace pimoe
