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

}  // namespace pimoe
