#include "ops/rotary.h"

#include "ops/head_rows.h"
#include "ops/launch.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// @returns [B, S, H + 2 KV, d]
at::Tensor turn(const AttentionHeads& heads, const at::Tensor& cosine, const at::Tensor& sine, bool backward) {
  const at::Tensor& queries = heads.queries;
  const int64_t sequences = queries.size(0);
  const int64_t width = queries.size(3);
  RotaryArguments arguments{};
  arguments.dtype = dtype_of(queries);
  arguments.positions = queries.size(1);
  arguments.queries = queries.size(2);
  arguments.kv_heads = heads.keys.size(2);
  arguments.half_width = width / 2;
  arguments.backward = backward;
  arguments.input = {head_rows(queries), head_rows(heads.keys), head_rows(heads.values)};
  arguments.cosine = cosine.const_data_ptr();
  arguments.sine = sine.const_data_ptr();
  const int64_t all = arguments.queries + 2 * arguments.kv_heads;
  at::Tensor output = at::empty({sequences, arguments.positions, all, width}, queries.options().requires_grad(false));
  arguments.output = output.mutable_data_ptr();
  const int64_t rows = sequences * arguments.positions;
  launch(
      queries, rows, 2 * all * width * queries.element_size(), [&](int64_t begin, int64_t end) { cpu::rotary(arguments, begin, end); },
      [&] { cuda::rotary(arguments, rows); });
  return output;
}

class Rotary : public torch::autograd::Function<Rotary> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& heads, const at::Tensor& cosine, const at::Tensor& sine,
                               int64_t queries, int64_t kv_heads) {
    context->save_for_backward({cosine, sine});
    const at::Tensor turned = turn(AttentionHeads::split(heads, queries, kv_heads), cosine, sine, /*backward=*/false);
    const AttentionHeads parts = AttentionHeads::split(turned, queries, kv_heads);
    return {parts.queries, parts.keys, parts.values};
  }

  /// A rotation's gradient turns back.
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const AttentionHeads parts{with_packed_heads(grads[0]), with_packed_heads(grads[1]), with_packed_heads(grads[2])};
    return {turn(parts, saved[0], saved[1], /*backward=*/true), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

AttentionHeads rotary(const at::Tensor& heads, const at::Tensor& cosine, const at::Tensor& sine, int64_t queries, int64_t kv_heads) {
  check_shape(heads.dim() == 4 && heads.size(3) % 2 == 0 && queries >= 0 && kv_heads >= 0 && heads.size(2) == queries + 2 * kv_heads,
              "rotary: heads is ", describe(heads), ", needs [B, S, H + 2 KV, d], d even, with H = ", queries, ", KV = ", kv_heads);
  check_operand("heads", heads, heads.scalar_type(), heads);
  const std::vector<int64_t> angles = {heads.size(1), heads.size(3) / 2};
  check_shape(cosine.sizes() == angles && sine.sizes() == angles, "rotary: cosine is ", describe(cosine), ", sine ", describe(sine),
              ", needs [S, d/2] of heads ", describe(heads));
  check_operand("cosine", cosine, arithmetic_type(heads), heads);
  check_operand("sine", sine, arithmetic_type(heads), heads);
  const variable_list parts = Rotary::apply(heads, cosine, sine, queries, kv_heads);
  return {parts[0], parts[1], parts[2]};
}

}  // namespace pimoe
