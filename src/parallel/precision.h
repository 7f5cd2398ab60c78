#pragma once

#include <c10/core/ScalarType.h>

namespace pimoe {

/// @returns float64 for float64, else float32: the precision of routers, norms, losses, reductions, master weights and moments.
constexpr at::ScalarType at_least_float32(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace pimoe
