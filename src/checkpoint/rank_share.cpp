#include "checkpoint/rank_share.h"

#include "checkpoint/training_state.h"

#include <algorithm>

namespace pimoe {
namespace {

constexpr int64_t kSliceElements = 64;  // stretches begin at whole cache lines, as an optimizer's do

/// Elements [begin, end) of `box` for one of `of` owners.
Piece slice_of(const std::string& name, const Box& box, int64_t index, int64_t of) {
  const int64_t each = ((box.numel() + of - 1) / of + kSliceElements - 1) / kSliceElements * kSliceElements;
  const int64_t begin = std::min(box.numel(), index * each);
  return {name, box, begin, std::min(box.numel(), begin + each)};
}

}  // namespace

Piece share_of_rank(const std::string& name, const std::vector<int64_t>& shape, const RankLayout& layout, int64_t rank) {
  if (!is_expert_tensor(name) || layout.expert_parallel == 1) return slice_of(name, Box::whole(shape), rank, layout.ranks);
  const int64_t local = shape[0] / layout.expert_parallel;
  const Box box = Box::rows(shape, rank % layout.expert_parallel * local, local);
  return slice_of(name, box, rank / layout.expert_parallel, layout.ranks / layout.expert_parallel);
}

}  // namespace pimoe
