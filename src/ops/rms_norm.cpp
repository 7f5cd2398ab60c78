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

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight, double epsilon) {
    const int64_t width = weight.size(0);
    const int64_t rows = width == 0 ? 0 : input.numel() / width;
    const at::Tensor inverse_rms = at::empty({rows}, weight.options().requires_grad(false));
    at::Tensor output = at::empty_like(input);
    RmsNormArguments arguments = arguments_of(input, weight, inverse_rms, epsilon);
    arguments.output = output.mutable_data_ptr();
    launch(
        input, rows, 2 * width * input.element_size(), [&](int64_t begin, int64_t end) { cpu::rms_norm(arguments, begin, end); },
        [&] { cuda::rms_norm(arguments, rows); });
    context->save_for_backward({input, weight, inverse_rms});
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& input = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor grad_output = grads[0].contiguous();
    const int64_t width = weight.size(0);
    const int64_t rows = saved[2].size(0);
    const int64_t chunks = (rows + kRmsNormChunk - 1) / kRmsNormChunk;

    at::Tensor grad_input, partial;
    RmsNormArguments arguments = arguments_of(input, weight, saved[2], 0.0);
    arguments.grad_output = grad_output.const_data_ptr();
    if (context->needs_input_grad(0)) {
      grad_input = at::empty_like(input);
      arguments.grad_input = grad_input.mutable_data_ptr();
    }
    if (context->needs_input_grad(1)) {
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
    if (!partial.defined()) return {grad_input, at::Tensor(), at::Tensor()};
    if (!input.is_cpu()) return {grad_input, at::sum(partial, 0), at::Tensor()};
    // at::sum may share the chunks out over threads.
    at::Tensor grad_weight = at::empty_like(weight);
    cpu::sum_rms_norm_partial(arguments, chunks, grad_weight.mutable_data_ptr());
    return {grad_input, grad_weight, at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double epsilon) {
  check_shape(weight.dim() == 1 && input.dim() >= 1 && input.size(-1) == weight.size(0), "rms_norm: input is ", describe(input),
              ", weight ", describe(weight), ", needs [..., D] and [D]");
  check_operand("input of rms_norm", input, input.scalar_type(), input);
  check_operand("weight of rms_norm", weight, arithmetic_type(input), input);
  return RmsNorm::apply(input, weight, epsilon);
}

}  // namespace pimoe
