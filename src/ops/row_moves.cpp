#include "ops/row_moves.h"

#include "ops/launch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor gather(const at::Tensor& source, const at::Tensor& index, int64_t divisor) {
  const int64_t rows = index.numel();
  const int64_t width = source.size(1);
  at::Tensor output = at::empty({rows, width}, source.options().requires_grad(false));
  const GatherArguments arguments{width * source.element_size(), source.const_data_ptr(), index.const_data_ptr<int32_t>(), divisor,
                                  output.mutable_data_ptr()};
  launch(
      source, rows, 2 * arguments.row_bytes, [&](int64_t begin, int64_t end) { cpu::gather_rows(arguments, begin, end); },
      [&] { cuda::gather_rows(arguments, rows); });
  return output;
}

CombineArguments combine_arguments(const at::Tensor& like, const at::Tensor& positions, int64_t choices) {
  CombineArguments arguments{};
  arguments.dtype = dtype_of(like);
  arguments.width = like.size(1);
  arguments.choices = choices;
  arguments.positions = positions.const_data_ptr<int32_t>();
  return arguments;
}

/// `weights` undefined: each row counts once.
at::Tensor combine(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& positions, int64_t choices) {
  const int64_t tokens = positions.numel() / choices;
  at::Tensor output = at::empty({tokens, rows.size(1)}, rows.options().requires_grad(false));
  CombineArguments arguments = combine_arguments(rows, positions, choices);
  arguments.rows = rows.const_data_ptr();
  arguments.weights = weights.defined() ? weights.const_data_ptr() : nullptr;
  arguments.output = output.mutable_data_ptr();
  launch(
      rows, tokens, (choices + 1) * arguments.width * rows.element_size(),
      [&](int64_t begin, int64_t end) { cpu::combine_rows(arguments, begin, end); }, [&] { cuda::combine_rows(arguments, tokens); });
  return output;
}

void combine_backward(const CombineArguments& arguments, const at::Tensor& of_tokens) {
  const int64_t tokens = of_tokens.size(0);
  launch(
      of_tokens, tokens, 2 * (arguments.choices + 1) * arguments.width * of_tokens.element_size(),
      [&](int64_t begin, int64_t end) { cpu::combine_rows_backward(arguments, begin, end); },
      [&] { cuda::combine_rows_backward(arguments, tokens); });
}

class GatherRows : public torch::autograd::Function<GatherRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& tokens, const at::Tensor& slots, const at::Tensor& positions,
                            int64_t choices) {
    context->save_for_backward({positions});
    context->saved_data["choices"] = choices;
    return gather(tokens, slots, choices);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const int64_t choices = context->saved_data["choices"].toInt();
    return {combine(grads[0].contiguous(), {}, saved[0], choices), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

class CombineRows : public torch::autograd::Function<CombineRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& positions,
                            bool unused_rows) {
    context->saved_data["unused_rows"] = unused_rows;
    // The rows are worth keeping only for the gradient of the weights.
    context->save_for_backward({weights.requires_grad() ? rows : at::Tensor(), weights, positions});
    context->saved_data["rows"] = rows.size(0);
    return combine(rows, weights, positions, weights.size(1));
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& weights = saved[1];
    const at::Tensor grad_output = grads[0].contiguous();
    CombineArguments arguments = combine_arguments(grad_output, saved[2], weights.size(1));
    arguments.weights = weights.const_data_ptr();
    arguments.grad_output = grad_output.const_data_ptr();

    at::Tensor grad_rows, grad_weights;
    if (context->needs_input_grad(0)) {
      const std::vector<int64_t> shape = {context->saved_data["rows"].toInt(), grad_output.size(1)};
      const bool unused_rows = context->saved_data["unused_rows"].toBool();
      grad_rows = unused_rows ? at::zeros(shape, grad_output.options()) : at::empty(shape, grad_output.options());
      arguments.grad_rows = grad_rows.mutable_data_ptr();
    }
    if (context->needs_input_grad(1)) {
      grad_weights = at::empty_like(weights);
      arguments.rows = saved[0].const_data_ptr();
      arguments.grad_weights = grad_weights.mutable_data_ptr();
    }
    combine_backward(arguments, grad_output);
    return {grad_rows, grad_weights, at::Tensor(), at::Tensor()};
  }
};

class PermuteRows : public torch::autograd::Function<PermuteRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows, const at::Tensor& index, const at::Tensor& inverse) {
    context->save_for_backward({inverse});
    return gather(rows, index, 1);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    return {gather(grads[0].contiguous(), context->get_saved_variables()[0], 1), at::Tensor(), at::Tensor()};
  }
};

void check_index(const char* name, const at::Tensor& index, const at::Tensor& like) {
  check_shape(index.dim() == 1, name, " is ", describe(index), ", needs one dimension");
  check_operand(name, index, at::kInt, like);
}

void check_matrix(const char* name, const at::Tensor& matrix) {
  check_shape(matrix.dim() == 2, name, " is ", describe(matrix), ", needs [rows, D]");
  dtype_of(matrix);
  check_operand(name, matrix, matrix.scalar_type(), matrix);
}

}  // namespace

at::Tensor gather_rows(const at::Tensor& tokens, const at::Tensor& slots, const at::Tensor& positions, int64_t choices) {
  check_matrix("tokens", tokens);
  check_index("slots", slots, tokens);
  check_index("positions", positions, tokens);
  check_shape(choices > 0 && positions.numel() == tokens.size(0) * choices, "gather_rows: tokens ", describe(tokens), ", choices ", choices,
              ", positions ", describe(positions), ", slots ", describe(slots), "; needs [T, D], K, [T*K], [R]");
  return GatherRows::apply(tokens, slots, positions, choices);
}

at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& positions, bool unused_rows) {
  check_matrix("rows", rows);
  check_index("positions", positions, rows);
  check_shape(weights.dim() == 2 && weights.size(1) > 0 && positions.numel() == weights.numel(), "combine_rows: weights ",
              describe(weights), ", positions ", describe(positions), "; needs [T, K], [T*K]");
  check_operand("weights", weights, arithmetic_type(rows), rows);
  return CombineRows::apply(rows, weights, positions, unused_rows);
}

at::Tensor add_rows_of_tokens(const at::Tensor& rows, const at::Tensor& positions, int64_t choices) {
  check_matrix("rows", rows);
  check_index("positions", positions, rows);
  check_shape(choices > 0 && positions.numel() % choices == 0, "add_rows_of_tokens: positions ", describe(positions), ", choices ", choices,
              "; needs [T*K], K");
  return combine(rows, {}, positions, choices);
}

at::Tensor rows_of_tokens(const at::Tensor& tokens, const at::Tensor& positions, int64_t choices, int64_t rows) {
  check_matrix("tokens", tokens);
  check_index("positions", positions, tokens);
  check_shape(choices > 0 && positions.numel() == tokens.size(0) * choices, "rows_of_tokens: tokens ", describe(tokens), ", choices ",
              choices, ", positions ", describe(positions), "; needs [T, D], K, [T*K]");
  at::Tensor output = at::empty({rows, tokens.size(1)}, tokens.options().requires_grad(false));
  CombineArguments arguments = combine_arguments(tokens, positions, choices);
  arguments.grad_output = tokens.const_data_ptr();
  arguments.grad_rows = output.mutable_data_ptr();
  combine_backward(arguments, tokens);
  return output;
}

at::Tensor permute_rows(const at::Tensor& rows, const at::Tensor& index, const at::Tensor& inverse) {
  check_matrix("rows", rows);
  check_index("index", index, rows);
  check_index("inverse", inverse, rows);
  check_shape(index.numel() == rows.size(0) && inverse.numel() == rows.size(0), "permute_rows: rows ", describe(rows), ", index ",
              describe(index), ", inverse ", describe(inverse), "; needs [R, D], [R], [R]");
  return PermuteRows::apply(rows, index, inverse);
}

}  // namespace pimoe
