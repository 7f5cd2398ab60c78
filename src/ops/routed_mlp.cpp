#include "ops/routed_mlp.h"

#include "ops/fused_mlp.h"
#include "ops/grouped_product.h"
#include "ops/launch.h"
#include "ops/row_moves.h"

#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class RoutedSwigluMlp : public torch::autograd::Function<RoutedSwigluMlp> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& tokens, const at::Tensor& weights, const at::Tensor& gate_up,
                            const at::Tensor& down, const at::Tensor& slots, const at::Tensor& positions, const at::Tensor& ends) {
    const at::Tensor row_tokens = at::empty_like(slots);
    launch(
        slots, slots.numel(), 2 * sizeof(int32_t),
        [&](int64_t begin, int64_t end) {
          const int32_t* of_rows = slots.const_data_ptr<int32_t>();
          auto* const out = row_tokens.mutable_data_ptr<int32_t>();
          for (int64_t row = begin; row < end; ++row) out[row] = of_rows[row] / static_cast<int32_t>(weights.size(1));
        },
        [&] {
          cuda::tokens_of_slots(slots.const_data_ptr<int32_t>(), row_tokens.mutable_data_ptr<int32_t>(), weights.size(1), slots.numel());
        });
    const FusedMlpResult result =
        fused_mlp({.input = tokens, .gate_up = gate_up, .down = down, .ends = ends, .row_tokens = row_tokens, .rows = slots.numel()});
    context->save_for_backward({tokens, weights, gate_up, down, slots, positions, ends, row_tokens, result.gate_up_rows});
    return combine_rows(result.rows, weights.detach(), positions);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& weights = saved[1];
    const at::Tensor& positions = saved[5];
    const at::Tensor grad_output = grads[0].contiguous();
    const FusedMlp mlp{.input = saved[0],
                       .gate_up = saved[2],
                       .down = saved[3],
                       .ends = saved[6],
                       .row_tokens = saved[7],
                       .weights = weights,
                       .slots = saved[4],
                       .positions = positions,
                       .rows = saved[4].numel()};
    FusedMlpRowGradients rows =
        fused_mlp_backward(mlp, saved[8], grad_output, {.rows = context->needs_input_grad(0), .weights = context->needs_input_grad(1)});
    at::Tensor grad_tokens, grad_weights, grad_gate_up, grad_down;
    if (rows.rows.defined()) {
      grad_tokens = add_rows_of_tokens(rows.rows, positions, weights.size(1));
      rows.rows = at::Tensor();  // the weights' gradients may have its memory
    }
    if (rows.weights.defined()) grad_weights = rows.weights.view_as(weights);
    if (context->needs_input_grad(2)) grad_gate_up = fused_mlp_gate_up_gradient(mlp, rows);
    if (context->needs_input_grad(3)) grad_down = fused_mlp_down_gradient(mlp, rows, grad_output);
    return {grad_tokens, grad_weights, grad_gate_up, grad_down, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

RoutedMlpBytes routed_mlp_bytes(int64_t tokens, int64_t rows, int64_t groups, int64_t width, int64_t hidden_width, bool on_gpu) {
  constexpr int64_t kNumber = 2;
  constexpr int64_t kIndex = sizeof(int32_t);
  RoutedMlpBytes bytes;
  bytes.kept = rows * (2 * hidden_width * kNumber + 2 * kIndex);  // the pre-activation, the row's slot and its token
  // Gradients of the pre-activation, hidden rows and parts of the gates' gradients; beside them those of rows (on a GPU then
  // the gathered tokens) and of tokens, and the weights': on a GPU they go straight to their sums.
  const int64_t hidden = rows * (3 * hidden_width * kNumber + weight_dot_parts(hidden_width) * static_cast<int64_t>(sizeof(float)));
  const int64_t weights = groups * 3 * hidden_width * width;
  // Beside the rows' gradients a CPU has the weights, packed.
  bytes.backward = hidden + (tokens * width + rows * width + (on_gpu ? 0 : weights)) * kNumber;
  return bytes;
}

bool has_routed_mlp_kernels(c10::Device device) { return has_mlp_kernels(device); }

bool fuses_routed_mlp(const at::Tensor& tokens, const at::Tensor& gate_up, const at::Tensor& down) {
  return fuses_mlp(tokens, gate_up, down);
}

at::Tensor routed_swiglu_mlp(const at::Tensor& tokens, const at::Tensor& weights, const at::Tensor& gate_up, const at::Tensor& down,
                             const at::Tensor& slots, const at::Tensor& positions, const at::Tensor& ends) {
  check_shape(weights.dim() == 2 && weights.size(0) == tokens.size(0) && weights.size(1) > 0, "weights is ", describe(weights),
              ", needs [T, K] for tokens ", describe(tokens));
  check_shape(gate_up.dim() == 3 && down.dim() == 3 && gate_up.size(0) == ends.numel() && down.size(0) == ends.numel() &&
                  gate_up.size(2) == tokens.size(1) && down.size(1) == tokens.size(1) && gate_up.size(1) == 2 * down.size(2),
              "routed_swiglu_mlp: tokens ", describe(tokens), ", gate_up ", describe(gate_up), ", down ", describe(down), ", ends ",
              describe(ends), "; needs [T, D], [G, 2F, D], [G, D, F], [G]");
  if (slots.numel() == 0 || ends.numel() == 0 || !fuses_routed_mlp(tokens, gate_up, down)) {
    const at::Tensor rows = gather_rows(tokens, slots, positions, weights.size(1));
    return combine_rows(grouped_swiglu_mlp(rows, gate_up, down, ends), weights, positions);
  }
  check_operand("weights", weights, at::kFloat, tokens);
  check_operand("gate_up", gate_up, tokens.scalar_type(), tokens);
  check_operand("down", down, tokens.scalar_type(), tokens);
  check_operand("slots", slots, at::kInt, tokens);
  check_operand("positions", positions, at::kInt, tokens);
  check_operand("ends", ends, at::kInt, tokens);
  check_shape(positions.numel() == weights.numel(), "positions ", describe(positions), " and weights ", describe(weights),
              " must have a number for each slot");
  return RoutedSwigluMlp::apply(tokens, weights, gate_up, down, slots, positions, ends);
}

}  // namespace pimoe
