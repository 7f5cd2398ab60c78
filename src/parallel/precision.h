#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace pimoe {

/// @returns float64 for float64, else float32: the precision of routers, norms, losses, reductions, master weights and moments.
constexpr at::ScalarType at_least_float32(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

/// Bytes of a number: of weights and activations, and of what is at least float32. Forecasts of memory count in them.
struct ElementBytes {
  int64_t compute = 2;
  int64_t wide = 4;

  static ElementBytes of(at::ScalarType dtype) {
    return {static_cast<int64_t>(c10::elementSize(dtype)), static_cast<int64_t>(c10::elementSize(at_least_float32(dtype)))};
  }
};

}  // namespace pimoe
