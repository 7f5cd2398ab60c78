#include "moe/feed_forward.h"

#include "ops/grouped_product.h"
#include "ops/swiglu.h"

#include <ATen/ops/full.h>

namespace pimoe {

FeedForward::FeedForward(ParameterList& parameters, const std::string& name, int64_t width, int64_t hidden, at::ScalarType dtype,
                         InitialDeviation deviation, const QuantizationConfig& quantization)
    : gate_up_(parameters, name + ".gate_up.weight", Box::whole({2 * hidden, width}), Group::kDense, dtype, deviation.inner, quantization),
      down_(parameters, name + ".down.weight", Box::whole({width, hidden}), Group::kDense, dtype, deviation.output, quantization) {}

at::Tensor FeedForward::forward(const at::Tensor& tokens) const {
  if (!gate_up_.is_plain() || !down_.is_plain()) return down_.multiply(swiglu(gate_up_.multiply(tokens)));
  const at::Tensor ends = at::full({1}, tokens.size(0), tokens.options().dtype(at::kInt));
  return grouped_swiglu_mlp(tokens, gate_up_.value().unsqueeze(0), down_.value().unsqueeze(0), ends);
}

}  // namespace pimoe
