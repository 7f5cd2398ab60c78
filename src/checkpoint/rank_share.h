#pragma once

#include "base/box.h"

#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// A layout of ranks that a checkpoint is written for by those who have no optimizer: reshard and import.
struct RankLayout {
  int64_t ranks = 1;
  int64_t expert_parallel = 1;  ///< divides ranks, and the first dimension of every expert tensor
};

/// @returns a rank's even stretch of a tensor; of an expert tensor (is_expert_tensor) that of its share of the experts, cut along the first dimension.
///          All ranks' stretches together are the tensor; the last ranks' may have no element.
Piece share_of_rank(const std::string& name, const std::vector<int64_t>& shape, const RankLayout& layout, int64_t rank);

}  // namespace pimoe
