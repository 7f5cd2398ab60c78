#pragma once

#include <string>
#include <string_view>

namespace pimoe {

/// A file of a few lines that a clone without Git LFS leaves in place of a large one: models and tokenizers of others come so, and whoever reads one
/// would call it damaged.
/// @param content  of a file, or its first 40 bytes or more
/// @param name     for the message
/// @throws DataError if it is one
void refuse_lfs_pointer(std::string_view content, const std::string& name);

}  // namespace pimoe
