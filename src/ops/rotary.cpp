#include "ops/rotary.h"

#include "ops/launch.h"

#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor turn(const at::Tensor& heads, const at::Tensor& cosine, const at::Tensor& sine, int64_t rotated_heads, bool backward) {
  at::Tensor output = at::empty_like(heads);
  RotaryArguments arguments{};
  arguments.dtype = dtype_of(heads);
  arguments.positions = heads.size(1);
  arguments.heads = heads.size(2);
  arguments.rotated_heads = rotated_heads;
  arguments.half_width = heads.size(3) / 2;
  arguments.backward = backward;
  arguments.input = heads.const_data_ptr();
  arguments.cosine = cosine.const_data_ptr();
  arguments.sine = sine.const_data_ptr();
  arguments.output = output.mutable_data_ptr();
  const int64_t rows = heads.size(0) * heads.size(1);
  launch(
      heads, rows, 2 * heads.size(2) * heads.size(3) * heads.element_size(),
      [&](int64_t begin, int64_t end) { cpu::rotary(arguments, begin, end); }, [&] { cuda::rotary(arguments, rows); });
  return output;
}

class Rotary : public torch::autograd::Function<Rotary> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& heads, const at::Tensor& cosine, const at::Tensor& sine,
                            int64_t rotated_heads) {
    context->save_for_backward({cosine, sine});
    context->saved_data["rotated_heads"] = rotated_heads;
    return turn(heads, cosine, sine, rotated_heads, /*backward=*/false);
  }

  /// A rotation's gradient turns back.
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const int64_t rotated_heads = context->saved_data["rotated_heads"].toInt();
    return {turn(grads[0].contiguous(), saved[0], saved[1], rotated_heads, /*backward=*/true), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rotary(const at::Tensor& heads, const at::Tensor& cosine, const at::Tensor& sine, int64_t rotated_heads) {
  check_shape(heads.dim() == 4 && heads.size(3) % 2 == 0, "rotary: heads is ", describe(heads), ", needs [B, S, H, d], d even");
  check_shape(0 <= rotated_heads && rotated_heads <= heads.size(2), "rotary: rotated_heads (", rotated_heads, ") must be in [0, ",
              heads.size(2), "], the heads of ", describe(heads));
  check_operand("heads", heads, heads.scalar_type(), heads);
  const std::vector<int64_t> angles = {heads.size(1), heads.size(3) / 2};
  check_shape(cosine.sizes() == angles && sine.sizes() == angles, "rotary: cosine is ", describe(cosine), ", sine ", describe(sine),
              ", needs [S, d/2] of heads ", describe(heads));
  check_operand("cosine", cosine, arithmetic_type(heads), heads);
  check_operand("sine", sine, arithmetic_type(heads), heads);
  return Rotary::apply(heads, cosine, sine, rotated_heads);
}

}  // namespace pimoe
