#include "moe/weights.h"

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

}  // namespace pimoe
