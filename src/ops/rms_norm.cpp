#include "ops/rms_norm.h"

#include "ops/launch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

RmsNormArguments arguments_of(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& inverse_rms, double epsilon) {
  RmsNormArguments arguments{};
  arguments.dtype = dtype_of(input);
  arguments.width = weight.size(0);
  arguments.epsilon = epsilon;
  arguments.input = input.const_data_ptr();
  arguments.weight = weight.const_data_ptr();
  arguments.inverse_rms = inverse_rms.data_ptr();
  return arguments;
}

/// @param sum  [..., D] of input and update; undefined where there is no update
/// @returns the norm's result
at::Tensor forward_pass(AutogradContext* context, const at::Tensor& input, const at::Tensor& update, const at::Tensor& sum,
                        const at::Tensor& weight, double epsilon) {
  const int64_t width = weight.size(0);
  const int64_t rows = width == 0 ? 0 : input.numel() / width;
  const at::Tensor inverse_rms = at::empty({rows}, weight.options().requires_grad(false));
  at::Tensor output = at::empty_like(input);
  RmsNormArguments arguments = arguments_of(input, weight, inverse_rms, epsilon);
  arguments.output = output.mutable_data_ptr();
  if (sum.defined()) {
    arguments.update = update.const_data_ptr();
    arguments.sum = sum.mutable_data_ptr();
  }
  launch(
      input, rows, (sum.defined() ? 4 : 2) * width * input.element_size(),
      [&](int64_t begin, int64_t end) { cpu::rms_norm(arguments, begin, end); }, [&] { cuda::rms_norm(arguments, rows); });
  context->save_for_backward({sum.defined() ? sum : input, weight, inverse_rms});
  return output;
}

struct Gradients {
  at::Tensor input;
  at::Tensor weight;
};

/// @param of_sum  what the stream's gradient is beside the norm's; may be undefined
Gradients backward_pass(AutogradContext* context, const at::Tensor& of_output, const at::Tensor& of_sum, bool wants_input,
                        bool wants_weight) {
  const variable_list saved = context->get_saved_variables();
  const at::Tensor& input = saved[0];
  const at::Tensor& weight = saved[1];
  const at::Tensor grad_output = of_output.contiguous();
  const at::Tensor grad_sum = of_sum.defined() ? of_sum.contiguous() : at::Tensor();
  const int64_t width = weight.size(0);
  const int64_t rows = saved[2].size(0);
  const int64_t chunks = (rows + kRmsNormChunk - 1) / kRmsNormChunk;

  Gradients result;
  at::Tensor partial;
  RmsNormArguments arguments = arguments_of(input, weight, saved[2], 0.0);
  arguments.grad_output = grad_output.const_data_ptr();
  arguments.grad_sum = grad_sum.defined() ? grad_sum.const_data_ptr() : nullptr;
  if (wants_input) {
    result.input = at::empty_like(input);
    arguments.grad_input = result.input.mutable_data_ptr();
  }
  if (wants_weight) {
    partial = at::empty({chunks, width}, weight.options().requires_grad(false));
    arguments.grad_weight_partial = partial.mutable_data_ptr();
  }
  launch(
      input, chunks, 4 * kRmsNormChunk * width * input.element_size(),
      [&](int64_t begin, int64_t end) {
        for (int64_t chunk = begin; chunk < end; ++chunk) {
          cpu::rms_norm_backward(arguments, chunk * kRmsNormChunk, std::min(rows, (chunk + 1) * kRmsNormChunk));
        }
      },
      [&] { cuda::rms_norm_backward(arguments, rows); });
  if (!partial.defined()) return result;
  if (!input.is_cpu()) {
    result.weight = at::sum(partial, 0);
    return result;
  }
  // at::sum may share the chunks out over threads.
  result.weight = at::empty_like(weight);
  cpu::sum_rms_norm_partial(arguments, chunks, result.weight.mutable_data_ptr());
  return result;
}

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight, double epsilon) {
    return forward_pass(context, input, {}, {}, weight, epsilon);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    Gradients result = backward_pass(context, grads[0], {}, context->needs_input_grad(0), context->needs_input_grad(1));
    return {result.input, result.weight, at::Tensor()};
  }
};

class ResidualRmsNorm : public torch::autograd::Function<ResidualRmsNorm> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& update, const at::Tensor& weight,
                               double epsilon) {
    at::Tensor sum = at::empty_like(input);
    at::Tensor normed = forward_pass(context, input, update, sum, weight, epsilon);
    context->set_materialize_grads(false);
    return {sum, normed};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    if (!grads[1].defined()) return {grads[0], grads[0], at::Tensor(), at::Tensor()};
    const bool wants_stream = context->needs_input_grad(0) || context->needs_input_grad(1);
    Gradients result = backward_pass(context, grads[1], grads[0], wants_stream, context->needs_input_grad(2));
    return {result.input, result.input, result.weight, at::Tensor()};
  }
};

void check(const at::Tensor& input, const at::Tensor& weight) {
  check_shape(weight.dim() == 1 && input.dim() >= 1 && input.size(-1) == weight.size(0), "rms_norm: input is ", describe(input),
              ", weight ", describe(weight), ", needs [..., D] and [D]");
  check_operand("input of rms_norm", input, input.scalar_type(), input);
  check_operand("weight of rms_norm", weight, arithmetic_type(input), input);
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double epsilon) {
  check(input, weight);
  return RmsNorm::apply(input, weight, epsilon);
}

ResidualNorm residual_rms_norm(const at::Tensor& input, const at::Tensor& update, const at::Tensor& weight, double epsilon) {
  if (!update.defined()) return {input, rms_norm(input, weight, epsilon)};
  check(input, weight);
  check_operand("update of residual_rms_norm", update, input.scalar_type(), input);
  check_shape(update.sizes() == input.sizes(), "residual_rms_norm: input is ", describe(input), ", update ", describe(update),
              ", needs one shape");
  const variable_list results = ResidualRmsNorm::apply(input, update, weight, epsilon);
  return {results[0], results[1]};
}

}  // namespace pimoe
