#include "moe/shared_expert.h"

#include "ops/wide_linear.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sigmoid.h>

namespace pimoe {

SharedExpert::SharedExpert(ParameterList& parameters, const std::string& name, int64_t width, int64_t hidden, bool gated,
                           at::ScalarType dtype, InitialDeviation deviation, const QuantizationConfig& quantization)
    : network_(parameters, name, width, hidden, dtype, deviation, quantization) {
  if (!gated) return;
  gate_ =
      &declare_weight(parameters, name + ".gate.weight", Box::whole({1, width}), Group::kDense, at_least_float32(dtype), deviation.inner);
}

at::Tensor SharedExpert::forward(const at::Tensor& tokens) const {
  const at::Tensor result = network_.forward(tokens);
  if (!gate_) return result;
  return result * at::sigmoid(wide_linear(tokens, gate_->value)).to(tokens.scalar_type());
}

int64_t kept_by_shared_expert(int64_t tokens, int64_t width, int64_t hidden, bool gated, ElementBytes bytes) {
  const int64_t network = 2 * hidden * bytes.compute;
  const int64_t gate = bytes.wide + (bytes.compute < bytes.wide ? bytes.compute : 0);  // as it was made, and as it multiplies
  return tokens * (network + (gated ? width * bytes.compute + gate : 0));
}

}  // namespace pimoe
