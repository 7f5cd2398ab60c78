#include "ops/normed_rotary.h"

#include "ops/head_rows.h"
#include "ops/launch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

NormedRotaryArguments arguments_of(const at::Tensor& heads, const at::Tensor& query_weight, const at::Tensor& key_weight,
                                   const at::Tensor& cosine, const at::Tensor& sine, const at::Tensor& inverse_rms, int64_t queries) {
  NormedRotaryArguments arguments{};
  arguments.dtype = dtype_of(heads);
  arguments.positions = heads.size(1);
  arguments.queries = queries;
  arguments.kv_heads = inverse_rms.size(1) - queries;
  arguments.half_width = heads.size(3) / 2;
  arguments.input = heads.const_data_ptr();
  arguments.query_weight = query_weight.const_data_ptr();
  arguments.key_weight = key_weight.const_data_ptr();
  arguments.cosine = cosine.const_data_ptr();
  arguments.sine = sine.const_data_ptr();
  arguments.inverse_rms = inverse_rms.data_ptr();
  return arguments;
}

class NormedRotary : public torch::autograd::Function<NormedRotary> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& heads, const at::Tensor& query_weight,
                               const at::Tensor& key_weight, double epsilon, const at::Tensor& cosine, const at::Tensor& sine,
                               int64_t queries, int64_t kv_heads) {
    const int64_t rows = heads.size(0) * heads.size(1);
    const at::Tensor inverse_rms = at::empty({rows, queries + kv_heads}, query_weight.options().requires_grad(false));
    at::Tensor output = at::empty_like(heads);
    NormedRotaryArguments arguments = arguments_of(heads, query_weight, key_weight, cosine, sine, inverse_rms, queries);
    arguments.epsilon = epsilon;
    arguments.output = output.mutable_data_ptr();
    launch(
        heads, rows, 2 * heads.size(2) * heads.size(3) * heads.element_size(),
        [&](int64_t begin, int64_t end) { cpu::normed_rotary(arguments, begin, end); }, [&] { cuda::normed_rotary(arguments, rows); });
    context->save_for_backward({heads, query_weight, key_weight, cosine, sine, inverse_rms});
    context->saved_data["queries"] = queries;
    const AttentionHeads parts = AttentionHeads::split(output, queries, kv_heads);
    return {parts.queries, parts.keys, parts.values};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& heads = saved[0];
    const AttentionHeads parts{with_packed_heads(grads[0]), with_packed_heads(grads[1]), with_packed_heads(grads[2])};
    const int64_t rows = saved[5].size(0);
    const int64_t width = heads.size(3);
    const int64_t chunks = (rows + kRmsNormChunk - 1) / kRmsNormChunk;
    NormedRotaryArguments arguments =
        arguments_of(heads, saved[1], saved[2], saved[3], saved[4], saved[5], context->saved_data["queries"].toInt());
    arguments.grad_output = {head_rows(parts.queries), head_rows(parts.keys), head_rows(parts.values)};
    at::Tensor grad_heads = at::empty_like(heads);
    const at::Tensor partial = at::empty({chunks, 2, width}, saved[1].options().requires_grad(false));
    arguments.grad_input = grad_heads.mutable_data_ptr();
    arguments.grad_weight_partial = partial.mutable_data_ptr();
    launch(
        heads, chunks, 4 * kRmsNormChunk * heads.size(2) * width * heads.element_size(),
        [&](int64_t begin, int64_t end) {
          for (int64_t chunk = begin; chunk < end; ++chunk) {
            cpu::normed_rotary_backward(arguments, chunk * kRmsNormChunk, std::min(rows, (chunk + 1) * kRmsNormChunk));
          }
        },
        [&] { cuda::normed_rotary_backward(arguments, rows); });
    at::Tensor grad_weights;  // [2, d]
    if (heads.is_cpu()) {
      // at::sum may share the chunks out over threads.
      grad_weights = at::empty({2, width}, partial.options());
      RmsNormArguments sums{};
      sums.dtype = arguments.dtype;
      sums.width = 2 * width;
      sums.grad_weight_partial = partial.mutable_data_ptr();
      cpu::sum_rms_norm_partial(sums, chunks, grad_weights.mutable_data_ptr());
    } else {
      grad_weights = at::sum(partial, 0);
    }
    const auto wanted = [&](size_t input, const at::Tensor& grad) { return context->needs_input_grad(input) ? grad : at::Tensor(); };
    return {wanted(0, grad_heads),
            wanted(1, grad_weights[0]),
            wanted(2, grad_weights[1]),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

AttentionHeads normed_rotary(const at::Tensor& heads, const at::Tensor& query_weight, const at::Tensor& key_weight, double epsilon,
                             const at::Tensor& cosine, const at::Tensor& sine, int64_t queries, int64_t kv_heads) {
  check_shape(heads.dim() == 4 && heads.size(3) % 2 == 0 && queries >= 0 && kv_heads >= 0 && heads.size(2) == queries + 2 * kv_heads,
              "normed_rotary: heads is ", describe(heads), ", needs [B, S, H + 2 KV, d], d even, with H = ", queries, ", KV = ", kv_heads);
  check_operand("heads", heads, heads.scalar_type(), heads);
  const std::vector<int64_t> width = {heads.size(3)};
  check_shape(query_weight.sizes() == width && key_weight.sizes() == width, "normed_rotary: query_weight is ", describe(query_weight),
              ", key_weight ", describe(key_weight), ", needs [d] of heads ", describe(heads));
  const std::vector<int64_t> angles = {heads.size(1), heads.size(3) / 2};
  check_shape(cosine.sizes() == angles && sine.sizes() == angles, "normed_rotary: cosine is ", describe(cosine), ", sine ", describe(sine),
              ", needs [S, d/2] of heads ", describe(heads));
  check_operand("query_weight", query_weight, arithmetic_type(heads), heads);
  check_operand("key_weight", key_weight, arithmetic_type(heads), heads);
  check_operand("cosine", cosine, arithmetic_type(heads), heads);
  check_operand("sine", sine, arithmetic_type(heads), heads);
  const variable_list parts = NormedRotary::apply(heads, query_weight, key_weight, epsilon, cosine, sine, queries, kv_heads);
  return {parts[0], parts[1], parts[2]};
}

}  // namespace pimoe
