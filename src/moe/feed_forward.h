#pragma once

#include "moe/matrix.h"
#include "moe/weights.h"

namespace pimoe {

/// A gated feed-forward network that every token passes: the dense layers, and the shared expert.
class FeedForward {
 public:
  /// Declares name.gate_up.weight [2F, D] (gate rows first) and name.down.weight [D, F], copied on every rank.
  FeedForward(ParameterList& parameters, const std::string& name, int64_t width, int64_t hidden, at::ScalarType dtype,
              InitialDeviation deviation, const QuantizationConfig& quantization = {});
  /// @param tokens [T, D] contiguous  @returns [T, D]
  at::Tensor forward(const at::Tensor& tokens) const;

 private:
  Matrix gate_up_;
  Matrix down_;
};

}  // namespace pimoe
