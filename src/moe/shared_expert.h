#pragma once

#include "moe/feed_forward.h"
#include "parallel/precision.h"

namespace pimoe {

/// The expert that every token passes, beside those that it is routed to.
class SharedExpert {
 public:
  /// Declares what FeedForward does, and with `gated` name.gate.weight [1, D], at least float32.
  SharedExpert(ParameterList& parameters, const std::string& name, int64_t width, int64_t hidden, bool gated, at::ScalarType dtype,
               InitialDeviation deviation, const QuantizationConfig& quantization = {});
  /// @param tokens [T, D] contiguous  @returns [T, D]: the network's result, with a gate times sigmoid(gate . token)
  at::Tensor forward(const at::Tensor& tokens) const;

 private:
  FeedForward network_;
  Parameter* gate_ = nullptr;
};

/// Bytes that SharedExpert::forward keeps for backward, without the tokens.
int64_t kept_by_shared_expert(int64_t tokens, int64_t width, int64_t hidden, bool gated, ElementBytes bytes);

}  // namespace pimoe
