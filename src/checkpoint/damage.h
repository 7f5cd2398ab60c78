#pragma once

#include "checkpoint/manifest.h"

#include <filesystem>
#include <string>

namespace pimoe {

/// Where a file that is there in full, and whose digest is wrong, is damaged: by the structures of the file, the checksum of each chunk, and the
/// digest of each dataset, in that order. The bytes are not HDF5's to parse; they are only looked at.
/// @returns "bytes 19,989,504 to 20,055,043 of it, in exp_avg/head.weight", or what of the file's own structures is wrong; "" if the file is not of
///          the manifest's size, or cannot be read.
/// @cost reads the file once, or twice where no checksum of a chunk finds it
std::string place_of_damage(const std::filesystem::path& folder, const Manifest& manifest, const StoredFile& file);

}  // namespace pimoe
