#include "moe/expert_bank.h"

#include "base/text.h"
#include "ops/grouped_product.h"
#include "ops/routed_mlp.h"
#include "ops/row_moves.h"
#include "ops/swiglu.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tanh.h>

namespace pimoe {
namespace {

at::Tensor activate(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kSwiglu:
    case Activation::kSilu: return at::silu(x);
    case Activation::kGeglu:
    case Activation::kGelu: return at::gelu(x);
    case Activation::kRelu: return at::relu(x);
    case Activation::kRelu2: return at::relu(x).square();
    case Activation::kTanh: return at::tanh(x);
  }
  return x;
}

}  // namespace

ExpertBank::ExpertBank(ParameterList& parameters, const std::string& name, const ExpertGroupConfig& group,
                       const ExpertPlacement::Bank& bank, int64_t width, at::ScalarType dtype, InitialDeviation deviation,
                       const QuantizationConfig& quantization)
    : activation_(group.activation) {
  const auto declare = [&](const std::string& part, int64_t rows, int64_t columns, double scale) {
    return Matrix(parameters, concat(name, ".", part, ".weight"), Box::rows({bank.experts, rows, columns}, bank.first_local, bank.local),
                  Group::kExpertReplica, dtype, scale, quantization);
  };
  const bool gated = is_gated(activation_);
  up_ = declare(gated ? "gate_up" : "up", gated ? 2 * group.width : group.width, width, deviation.inner);
  for (int64_t layer = 0; layer < group.layers - 2; ++layer) {
    middle_.push_back(declare(concat("middle.", layer), group.width, group.width, deviation.inner));
  }
  down_ = declare("down", width, group.width, deviation.output);
}

void ExpertBank::expect_gradients_in_parts() {
  up_.parameter().gradient_in_parts = down_.parameter().gradient_in_parts = true;
  for (const Matrix& matrix : middle_) matrix.parameter().gradient_in_parts = true;
}

at::Tensor ExpertBank::forward(const at::Tensor& rows, const at::Tensor& row_weights, const at::Tensor& ends) const {
  if (is_plain_swiglu()) {
    return grouped_swiglu_mlp(rows, up_.value(), down_.value(), ends, row_weights);
  }
  at::Tensor hidden = activated(rows, ends);
  for (const Matrix& matrix : middle_) hidden = activate(matrix.multiply_groups(hidden.contiguous(), ends), activation_);
  if (down_.is_quantized() && row_weights.defined()) {
    // Rows are rounded as they were in calibration, and a row that weighs little is not rounded away.
    const at::Tensor result = down_.multiply_groups(hidden.contiguous(), ends);
    return (result * row_weights).to(result.dtype());
  }
  // The last matrix is linear: weighting what enters it weights the result, and the result is kept by nobody.
  if (row_weights.defined()) hidden = (hidden * row_weights).to(hidden.dtype());
  return down_.multiply_groups(hidden.contiguous(), ends);
}

at::Tensor ExpertBank::activated(const at::Tensor& rows, const at::Tensor& ends) const {
  const at::Tensor hidden = up_.multiply_groups(rows, ends);
  if (!is_gated(activation_)) return activate(hidden, activation_);
  if (activation_ == Activation::kSwiglu && up_.is_quantized()) return swiglu(hidden);
  const auto halves = hidden.chunk(2, 1);
  return activate(halves[0], activation_) * halves[1];
}

bool ExpertBank::fuses_routing(const at::Tensor& tokens) const {
  return is_plain_swiglu() && fuses_routed_mlp(tokens, up_.value(), down_.value());
}

at::Tensor ExpertBank::from_tokens(const at::Tensor& tokens, const at::Tensor& weights, const at::Tensor& slots,
                                   const at::Tensor& positions, const at::Tensor& ends) const {
  if (!is_plain_swiglu()) {
    const at::Tensor rows = gather_rows(tokens, slots, positions, weights.size(1));
    return combine_rows(forward(rows, {}, ends), weights, positions);
  }
  return routed_swiglu_mlp(tokens, weights, up_.value(), down_.value(), slots, positions, ends);
}

int64_t kept_bytes_of_expert_row(const ExpertGroupConfig& group, ElementBytes bytes, bool gates_early, bool gates_learn) {
  const int64_t hidden = group.width * bytes.compute;
  const int64_t gate = gates_early ? bytes.wide : 0;
  if (group.activation == Activation::kSwiglu && group.layers == 2) return 2 * hidden + gate;  // grouped_swiglu_mlp's pre-activation
  // silu and gelu keep what they are given, relu and tanh their result; the square keeps relu's. Every result is kept by the matrix after it.
  const Activation activation = group.activation;
  const int64_t activated = (activation == Activation::kRelu || activation == Activation::kTanh ? 1 : 2) * hidden;
  int64_t kept = is_gated(activation) ? 4 * hidden : activated;  // gate and up, the activated gate, the product
  kept += (group.layers - 2) * activated;
  if (!gates_early) return kept;
  // The weighed rows are what the last matrix keeps now; those before them stay for the weights' gradient, or for relu's and tanh's own.
  return kept + gate + (gates_learn || activated == hidden ? hidden : 0);
}

}  // namespace pimoe
