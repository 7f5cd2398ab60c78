#pragma once

#include <filesystem>

namespace pimoe {

/// For a file that is written (replace_file) at the end of what may take minutes: tells before that it cannot be.
/// @throws IoError where there is no folder for it, one may not write there, or something that is no regular file has its name
void require_writable(const std::filesystem::path& file);

}  // namespace pimoe
