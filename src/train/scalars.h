#pragma once

#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// Names and values, a curve each; what is no number is there as NaN.
using Scalars = std::vector<std::pair<std::string, double>>;

}  // namespace pimoe
