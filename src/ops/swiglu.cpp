#include "ops/swiglu.h"

#include "ops/launch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

namespace pimoe {
namespace {

SwigluArguments arguments_of(const at::Tensor& gate_up) {
  check_shape(gate_up.dim() == 2 && gate_up.size(1) % 2 == 0, "gate_up is ", describe(gate_up), ", needs [R, 2F]");
  check_operand("gate_up", gate_up, gate_up.scalar_type(), gate_up);
  SwigluArguments arguments{};
  arguments.dtype = dtype_of(gate_up);
  arguments.width = gate_up.size(1) / 2;
  arguments.gate_up = gate_up.const_data_ptr();
  return arguments;
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up) {
  SwigluArguments arguments = arguments_of(gate_up);
  const int64_t rows = gate_up.size(0);
  at::Tensor hidden = at::empty({rows, arguments.width}, gate_up.options());
  arguments.hidden = hidden.mutable_data_ptr();
  launch(
      gate_up, rows, 3 * arguments.width * gate_up.element_size(), [&](int64_t begin, int64_t end) { cpu::swiglu(arguments, begin, end); },
      [&] { cuda::swiglu(arguments, rows); });
  return hidden;
}

SwigluBackward swiglu_backward_and_hidden(const at::Tensor& grad_hidden, const at::Tensor& gate_up) {
  SwigluArguments arguments = arguments_of(gate_up);
  const int64_t rows = gate_up.size(0);
  check_shape(grad_hidden.dim() == 2 && grad_hidden.size(0) == rows && grad_hidden.size(1) == arguments.width, "grad_hidden is ",
              describe(grad_hidden), ", needs [", rows, ", ", arguments.width, "]");
  check_operand("grad_hidden", grad_hidden, gate_up.scalar_type(), gate_up);
  SwigluBackward result{at::empty_like(gate_up), at::empty(grad_hidden.sizes(), gate_up.options())};
  arguments.grad_hidden = grad_hidden.const_data_ptr();
  arguments.grad_gate_up = result.grad_gate_up.mutable_data_ptr();
  arguments.hidden = result.hidden.mutable_data_ptr();
  launch(
      gate_up, rows, 6 * arguments.width * gate_up.element_size(),
      [&](int64_t begin, int64_t end) { cpu::swiglu_backward(arguments, begin, end); }, [&] { cuda::swiglu_backward(arguments, rows); });
  return result;
}

}  // namespace pimoe
