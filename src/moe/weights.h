#pragma once

#include "parallel/parameter.h"

#include <string>

namespace pimoe {

/// How a layer's weights begin: standard deviation of what reads the residual stream, and of what adds to it.
struct InitialDeviation {
  double inner = 0.02;
  double output = 0.02;
};

/// Declares a matrix that decays and begins with normal values.
Parameter& declare_weight(ParameterList& parameters, const std::string& name, Box box, Group copies, at::ScalarType dtype,
                          double deviation);

/// Declares a norm's weight: ones at first, at least float32, no decay.
Parameter& declare_norm(ParameterList& parameters, const std::string& name, int64_t width, at::ScalarType compute_dtype);

/// Declares a bias: zeros at first, no decay.
Parameter& declare_bias(ParameterList& parameters, const std::string& name, int64_t width, at::ScalarType dtype);

}  // namespace pimoe
