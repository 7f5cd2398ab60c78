#pragma once

/// The parts of verify_checkpoint, for those who share them out over ranks or need them one file at a time.

#include "base/errors.h"
#include "checkpoint/manifest.h"

#include <filesystem>
#include <string>

namespace pimoe {

/// @returns whether the error says that the data is gone (no such file, a medium that cannot be read), and not that we may not look.
bool is_damage(const IoError& error);

/// @returns "" or what is wrong with one file: missing, another size or, with `digest`, other bytes.
/// @throws IoError if it cannot be looked at
std::string file_trouble(const std::filesystem::path& folder, const StoredFile& file, bool digest);

/// @returns "" or what is wrong with the manifest, the files or the coverage; datasets are not opened. @throws IoError as file_trouble
std::string bytes_trouble(const std::filesystem::path& folder, bool digests);

/// @returns the logical tensors in a file, for messages: "master/a, exp_avg/a and 4 more".
std::string tensors_in(const Manifest& manifest, const std::string& file);

/// @returns "" or the first dataset of a file, whose own digest is right, that is not what the manifest says, or is not listed.
std::string datasets_trouble(const std::filesystem::path& folder, const Manifest& manifest, const std::string& file);

}  // namespace pimoe
