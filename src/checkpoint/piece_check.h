#pragma once

/// Rules that pieces keep, one by one and together; shared by save (before anything is written) and load (before anything is believed).

#include "checkpoint/manifest.h"

#include <map>
#include <string>
#include <vector>

namespace pimoe {

/// @returns "" if kind and name can name a dataset, the box lies inside its tensor, the range inside the box, and no product overflows.
std::string piece_trouble(const std::string& kind, const Piece& piece);

/// Pieces by logical tensor ("master/layers.0.norm"), as indices.
using TensorIndex = std::map<std::string, std::vector<size_t>>;
TensorIndex index_by_tensor(const std::vector<StoredPiece>& pieces);

/// @returns "" if the pieces of every tensor agree on shape and number format, and cover every element; else the tensor and what is wrong.
/// @cost one run of each piece for every stretch that is contiguous in the tensor
std::string coverage_trouble(const std::vector<StoredPiece>& pieces);

/// A half-open stretch of elements.
struct Stretch {
  int64_t begin = 0;
  int64_t end = 0;
};
/// @returns the first stretch of [0, count) that none of `covered` holds; begin == end if there is none.
Stretch first_gap(std::vector<Stretch> covered, int64_t count);

}  // namespace pimoe
