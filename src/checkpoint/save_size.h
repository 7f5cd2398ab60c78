#pragma once

#include "checkpoint/manifest.h"
#include "checkpoint/snapshot.h"

#include <cstdint>
#include <vector>

namespace pimoe {

/// What a rank's part of a save will take on the disk: its files with HDF5's own bytes, in blocks of 4 KiB, and its rows of the manifest; on rank 0
/// also the rest of the manifest, and the folder. Never too little, and too much by at most 64 KiB, 6 KiB a file and three per mille.
/// @param parts   plan_parts of the pieces that the rank writes
/// @param common  the manifest without files and pieces
int64_t foretold_bytes(const std::vector<std::vector<StatePiece>>& parts, int64_t rank, const Manifest& common);

}  // namespace pimoe
