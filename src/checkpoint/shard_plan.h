#pragma once

/// Who writes what, and into which file.

#include "checkpoint/manifest.h"
#include "checkpoint/snapshot.h"

#include <string>
#include <vector>

namespace pimoe {

/// @returns the pieces without those that have no element, unless their whole tensor has none.
/// @throws ShapeError naming the piece that state_trouble refuses.
std::vector<StatePiece> pieces_to_store(const std::vector<StatePiece>& pieces);

/// @returns what a rank says about its pieces before a save, one for one: no files and digests yet.
std::vector<StoredPiece> list_pieces(const std::vector<StatePiece>& pieces);

/// @param by_rank  list_pieces of every rank
/// @returns for each rank the indices into its list that it writes: of equal pieces (kind, name, box, range) the first rank's alone.
std::vector<std::vector<size_t>> share_out(const std::vector<std::vector<StoredPiece>>& by_rank);

/// Cuts pieces into files of at most `part_bytes` of elements each: a piece that is larger by itself is cut, the others are kept whole.
/// Order is kept; no part is empty.
std::vector<std::vector<StatePiece>> plan_parts(const std::vector<StatePiece>& pieces, int64_t part_bytes);

}  // namespace pimoe
