#include "moe/weights.h"

#include "parallel/precision.h"

namespace pimoe {

Parameter& declare_weight(ParameterList& parameters, const std::string& name, Box box, Group copies, at::ScalarType dtype,
                          double deviation) {
  return parameters.declare({.name = name,
                             .box = std::move(box),
                             .copies = copies,
                             .dtype = dtype,
                             .decay = true,
                             .initializer = {Initializer::Kind::kNormal, deviation},
                             .value = {}});
}

Parameter& declare_norm(ParameterList& parameters, const std::string& name, int64_t width, at::ScalarType compute_dtype) {
  return parameters.declare({.name = name + ".weight",
                             .box = Box::whole({width}),
                             .copies = Group::kDense,
                             .dtype = at_least_float32(compute_dtype),
                             .decay = false,
                             .initializer = {Initializer::Kind::kConstant, 1.0},
                             .value = {}});
}

Parameter& declare_bias(ParameterList& parameters, const std::string& name, int64_t width, at::ScalarType dtype) {
  return parameters.declare({.name = name + ".bias",
                             .box = Box::whole({width}),
                             .copies = Group::kDense,
                             .dtype = dtype,
                             .decay = false,
                             .initializer = {Initializer::Kind::kConstant, 0.0},
                             .value = {}});
}

}  // namespace pimoe
