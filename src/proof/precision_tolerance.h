#pragma once

#include <c10/core/ScalarType.h>

namespace pimoe {

/// How far apart, relative to a tensor's largest value, runs may be that should be equal.
struct PrecisionRule {
  const char* name;
  double tolerance;
};

/// About ten to a hundred roundings of the dtype; float64 leaves room for any model's sums.
inline PrecisionRule rule_of(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Double: return {"float64", 1e-9};
    case c10::ScalarType::Float: return {"float32", 1e-4};
    case c10::ScalarType::Half: return {"float16", 2e-2};
    default: return {"bfloat16", 5e-2};
  }
}

}  // namespace pimoe
