#pragma once

#include <c10/core/ScalarType.h>

namespace pimoe {

/// How far apart, relative to a tensor's largest value, runs in this compute dtype may be that should be equal: about ten to a hundred of its
/// roundings; float64 leaves room for any model's sums.
inline double precision_tolerance(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Double: return 1e-9;
    case c10::ScalarType::Float: return 1e-4;
    case c10::ScalarType::Half: return 2e-2;
    default: return 5e-2;
  }
}

/// Half the distance from 1 to the next number, relative.
inline double rounding(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Double: return 0x1p-53;
    case c10::ScalarType::Float: return 0x1p-24;
    case c10::ScalarType::Half: return 0x1p-11;
    default: return 0x1p-8;
  }
}

}  // namespace pimoe
