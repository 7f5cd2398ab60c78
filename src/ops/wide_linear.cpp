#include "ops/wide_linear.h"

#include "ops/launch.h"
#include "ops/tile_kernels.h"
#include "ops/tile_product.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// bfloat16 numbers that add up to float32 ones, the first the nearest, each further one the nearest to what is missing.
struct Split {
  at::Tensor first, second, third;
};
Split split(const at::Tensor& wide) {
  const at::Tensor first = wide.to(at::kBFloat16);
  const at::Tensor rest = wide - first;
  const at::Tensor second = rest.to(at::kBFloat16);
  return {first, second, (rest - second).to(at::kBFloat16)};
}

/// @returns the sum of three equal parts along a dimension, the smallest first
at::Tensor sum_of_parts(const at::Tensor& stacked, int64_t dimension) {
  const int64_t part = stacked.size(dimension) / 3;
  const auto at = [&](int64_t index) { return stacked.narrow(dimension, index * part, part); };
  return (at(2) + at(1)) + at(0);
}

/// @returns rows [T, D] times matrix [D, columns] in `dtype`: by tiles on the CPU, by libtorch's product on a GPU
at::Tensor product(const at::Tensor& rows, const at::Tensor& matrix, at::ScalarType dtype) {
  if (!rows.is_cpu()) return dtype == at::kFloat ? at::mm(rows, matrix, at::kFloat) : at::mm(rows, matrix);
  const std::vector<int32_t> ends = {static_cast<int32_t>(rows.size(0))};
  return multiply_rows_by_tiles(rows, matrix.unsqueeze(0), ends, dtype);
}

at::Tensor logits_of(const at::Tensor& tokens, const at::Tensor& weight) {
  const Split parts = split(weight);
  return sum_of_parts(product(tokens, at::cat({parts.first, parts.second, parts.third}).t(), at::kFloat), 1);
}

at::Tensor tokens_gradient(const at::Tensor& grad, const at::Tensor& weight) {
  const Split of_grad = split(grad);
  const Split of_weight = split(weight);
  std::vector<at::Tensor> left = {of_grad.first, of_grad.first, of_grad.second};
  std::vector<at::Tensor> right = {of_weight.first, of_weight.second, of_weight.first};
  if (grad.size(1) % 2 != 0) {  // tiles take terms in pairs
    left.push_back(at::zeros({grad.size(0), 1}, left[0].options()));
    right.push_back(at::zeros({1, weight.size(1)}, right[0].options()));
  }
  return product(at::cat(left, 1), at::cat(right), at::kBFloat16);
}

at::Tensor weight_gradient(const at::Tensor& grad, const at::Tensor& tokens) {
  const Split parts = split(grad);
  const at::Tensor left = at::cat({parts.first, parts.second, parts.third}, 1);
  if (!tokens.is_cpu()) return sum_of_parts(at::mm(left.t(), tokens, at::kFloat), 0);
  const std::vector<int32_t> ends = {static_cast<int32_t>(tokens.size(0))};
  return sum_of_parts(multiply_columns_by_tiles(left, tokens, ends, at::kFloat)[0], 0);
}

class WideLinear : public torch::autograd::Function<WideLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& tokens, const at::Tensor& weight, bool by_parts) {
    context->save_for_backward({tokens, weight});
    context->saved_data["by_parts"] = by_parts;
    return by_parts ? logits_of(tokens, weight) : at::linear(tokens.to(weight.scalar_type()), weight);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& tokens = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor grad = grads[0].contiguous();
    const bool by_parts = context->saved_data["by_parts"].toBool();
    at::Tensor of_tokens, of_weight;
    if (context->needs_input_grad(0)) of_tokens = by_parts ? tokens_gradient(grad, weight) : grad.mm(weight).to(tokens.scalar_type());
    if (context->needs_input_grad(1)) of_weight = by_parts ? weight_gradient(grad, tokens) : grad.t().mm(tokens.to(weight.scalar_type()));
    return {of_tokens, of_weight, at::Tensor()};
  }
};

}  // namespace

at::Tensor wide_linear(const at::Tensor& tokens, const at::Tensor& weight) {
  check_shape(tokens.dim() == 2 && weight.dim() == 2 && tokens.size(1) == weight.size(1), "wide_linear: tokens ", describe(tokens),
              ", weight ", describe(weight), "; needs [T, D], [E, D]");
  check_operand("tokens", tokens, tokens.scalar_type(), tokens);
  check_operand("weight", weight, arithmetic_type(tokens), tokens);
  const bool has_unit = tokens.is_cpu() ? has_tile_product(tokens) && tokens.size(1) % 2 == 0 : tokens.scalar_type() == at::kBFloat16;
  return WideLinear::apply(tokens, weight, has_unit && tokens.numel() > 0 && weight.numel() > 0);
}

}  // namespace pimoe
