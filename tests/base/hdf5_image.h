#pragma once

#include "base/hdf5_file.h"

#include <vector>

namespace pimoe {

using Image = std::vector<std::byte>;

/// A copy: to be damaged, or to outlive the writer's.
inline Image bytes_of(const Hdf5Image& image) { return {image.data(), image.data() + image.size()}; }

}  // namespace pimoe
