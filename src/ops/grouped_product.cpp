#include "ops/grouped_product.h"

#include "ops/fused_mlp.h"
#include "ops/launch.h"
#include "ops/swiglu.h"
#include "ops/tile_product.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <vector>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The row ranges of one call: read to the host once, and only when a loop asks.
class Groups {
 public:
  Groups(const at::Tensor& ends, int64_t rows) : ends_(ends), rows_(rows) {}

  const at::Tensor& ends() const { return ends_; }
  int64_t count() const { return ends_.numel(); }
  int64_t begin(int64_t group) { return group == 0 ? 0 : end(group - 1); }

  int64_t end(int64_t group) { return host_ends()[static_cast<size_t>(group)]; }

  /// @cost one host synchronisation at the first call when the ends are on a GPU
  const std::vector<int32_t>& host_ends() {
    if (host_ends_.empty()) {
      const at::Tensor host = ends_.cpu();
      const int32_t* values = host.const_data_ptr<int32_t>();
      host_ends_.assign(values, values + count());
      int32_t last = 0;
      for (const int32_t value : host_ends_) {
        check_shape(last <= value && value <= rows_, "ends ", ends_, " must rise from 0 and stay within ", rows_, " rows");
        last = value;
      }
    }
    return host_ends_;
  }

 private:
  at::Tensor ends_;
  int64_t rows_;
  std::vector<int32_t> host_ends_;
};

bool is_aligned(const at::Tensor& tensor) {
  constexpr int64_t kBytes = 16;
  bool aligned = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kBytes == 0;
  for (const int64_t stride : tensor.strides()) aligned = aligned && (stride == 1 || stride * tensor.element_size() % kBytes == 0);
  return aligned;
}

/// Whether at::_grouped_mm takes the operands, and without a host synchronisation. On the CPU it is a loop of products itself.
bool takes_grouped_mm(const at::Tensor& left, const at::Tensor& right, const Groups& groups) {
  return left.is_cuda() && left.scalar_type() == at::kBFloat16 && groups.count() < 1024 && is_aligned(left) && is_aligned(right);
}

/// @returns [R, B]: the rows [R, A] of group g times matrices[g] ([G, A, B], any strides). Rows past the last end are not written.
at::Tensor multiply_rows(const at::Tensor& rows, const at::Tensor& matrices, Groups& groups) {
  if (rows.size(0) == 0 || groups.count() == 0) return at::empty({rows.size(0), matrices.size(2)}, rows.options());
  if (takes_grouped_mm(rows, matrices, groups)) return at::_grouped_mm(rows, matrices, groups.ends());
  const bool dense = matrices.stride(1) == 1 || matrices.stride(2) == 1;
  if (has_tile_product(rows) && dense && rows.size(1) % 2 == 0) return multiply_rows_by_tiles(rows, matrices, groups.host_ends());
  at::Tensor output = at::empty({rows.size(0), matrices.size(2)}, rows.options());
  for (int64_t group = 0; group < groups.count(); ++group) {
    const int64_t begin = groups.begin(group);
    const int64_t count = groups.end(group) - begin;
    if (count == 0) continue;
    at::Tensor part = output.narrow(0, begin, count);
    at::mm_out(part, rows.narrow(0, begin, count), matrices.select(0, group));
  }
  return output;
}

/// @returns [G, B, A]: for each group the sum over its rows of grad[r]^T rows[r].
at::Tensor multiply_columns(const at::Tensor& grad, const at::Tensor& rows, Groups& groups) {
  const std::vector<int64_t> shape = {groups.count(), grad.size(1), rows.size(1)};
  if (rows.size(0) == 0 || groups.count() == 0) return at::zeros(shape, rows.options());
  if (takes_grouped_mm(grad, rows, groups)) return at::_grouped_mm(grad.t(), rows, groups.ends());
  if (has_tile_product(rows)) return multiply_columns_by_tiles(grad, rows, groups.host_ends());
  at::Tensor output = at::empty(shape, rows.options());
  for (int64_t group = 0; group < groups.count(); ++group) {
    const int64_t begin = groups.begin(group);
    const int64_t count = groups.end(group) - begin;
    at::Tensor part = output.select(0, group);
    if (count == 0) {
      part.zero_();
    } else {
      at::mm_out(part, grad.narrow(0, begin, count).t(), rows.narrow(0, begin, count));
    }
  }
  return output;
}

/// Rows past the last end are uninitialised; a NaN there would survive every later sum as NaN * 0.
void zero_unused_rows(at::Tensor& rows, Groups& groups) {
  const int64_t count = rows.size(0);
  if (count == 0) return;
  if (groups.count() == 0) {
    rows.zero_();
  } else if (rows.is_cpu()) {
    const int64_t used = groups.end(groups.count() - 1);
    rows.narrow(0, used, count - used).zero_();
  } else if constexpr (kCudaBuild) {
    const c10::DeviceGuard guard(rows.device());
    const int32_t* last_end = groups.ends().const_data_ptr<int32_t>() + groups.count() - 1;
    cuda::zero_rows_from(rows.mutable_data_ptr(), rows.size(1) * rows.element_size(), count, last_end);
  }
}

void check_ends(const at::Tensor& ends, const at::Tensor& rows) {
  check_shape(ends.dim() == 1, "ends is ", describe(ends), ", needs [G]");
  check_operand("ends", ends, at::kInt, rows);
}

void check_rows(const char* name, const at::Tensor& rows, const at::Tensor& like) {
  check_shape(rows.dim() == 2, name, " is ", describe(rows), ", needs [R, columns]");
  dtype_of(rows);
  check_operand(name, rows, like.scalar_type(), like);
}

void check_weights(const char* name, const at::Tensor& weights, int64_t groups, const at::Tensor& like) {
  check_shape(weights.dim() == 3 && weights.size(0) == groups, name, " is ", describe(weights), ", needs [G, B, A] with G = ", groups,
              " as in ends");
  check_operand(name, weights, like.scalar_type(), like);
}

class GroupedLinear : public torch::autograd::Function<GroupedLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& ends) {
    Groups groups(ends, rows.size(0));
    at::Tensor output = multiply_rows(rows, weights.transpose(1, 2), groups);
    zero_unused_rows(output, groups);
    context->save_for_backward({rows, weights, ends});
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor grad_output = grads[0].contiguous();
    Groups groups(saved[2], saved[0].size(0));
    at::Tensor grad_rows, grad_weights;
    if (context->needs_input_grad(0)) {
      grad_rows = multiply_rows(grad_output, saved[1], groups);
      zero_unused_rows(grad_rows, groups);
    }
    if (context->needs_input_grad(1)) grad_weights = multiply_columns(grad_output, saved[0], groups);
    return {grad_rows, grad_weights, at::Tensor()};
  }
};

class GroupedSwigluMlp : public torch::autograd::Function<GroupedSwigluMlp> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& rows, const at::Tensor& gate_up, const at::Tensor& down,
                            const at::Tensor& ends, const std::optional<at::Tensor>& weights_if_any) {
    const at::Tensor row_weights = weights_if_any.value_or(at::Tensor());
    Groups groups(ends, rows.size(0));
    if (fuses_mlp(rows, gate_up, down)) {
      FusedMlpResult result = fused_mlp(fused(rows, gate_up, down, ends, row_weights));
      zero_unused_rows(result.rows, groups);
      context->save_for_backward({rows, gate_up, down, ends, result.gate_up_rows, row_weights});
      return result.rows;
    }
    const at::Tensor gate_up_rows = multiply_rows(rows, gate_up.transpose(1, 2), groups);
    at::Tensor output = multiply_rows(swiglu(gate_up_rows), down.transpose(1, 2), groups);
    if (row_weights.defined()) output.mul_(row_weights);
    zero_unused_rows(output, groups);
    context->save_for_backward({rows, gate_up, down, ends, gate_up_rows, row_weights});
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& rows = saved[0];
    const at::Tensor& gate_up = saved[1];
    const at::Tensor& down = saved[2];
    const at::Tensor& row_weights = saved[5];
    const at::Tensor grad_output = grads[0].contiguous();
    Groups groups(saved[3], rows.size(0));
    if (fuses_mlp(rows, gate_up, down)) {
      const FusedMlp mlp = fused(rows, gate_up, down, saved[3], row_weights);
      FusedMlpRowGradients of_rows =
          fused_mlp_backward(mlp, saved[4], grad_output,
                             {.rows = context->needs_input_grad(0), .weights = row_weights.defined() && context->needs_input_grad(4)});
      if (of_rows.rows.defined()) zero_unused_rows(of_rows.rows, groups);
      at::Tensor grad_weights = of_rows.weights.defined() ? of_rows.weights.unsqueeze(1) : at::Tensor();
      if (grad_weights.defined()) zero_unused_rows(grad_weights, groups);
      return {of_rows.rows, context->needs_input_grad(1) ? fused_mlp_gate_up_gradient(mlp, of_rows) : at::Tensor(),
              context->needs_input_grad(2) ? fused_mlp_down_gradient(mlp, of_rows, grad_output) : at::Tensor(), at::Tensor(), grad_weights};
    }

    at::Tensor grad_hidden = multiply_rows(grad_output, down, groups);
    at::Tensor grad_row_weights, weighted_grad = grad_output;
    if (row_weights.defined()) {
      // <grad, down h> = <down^T grad, h>: the result itself is not needed.
      if (context->needs_input_grad(4)) {
        grad_row_weights = (grad_hidden.to(row_weights.dtype()) * swiglu(saved[4]).to(row_weights.dtype())).sum(1, true);
        zero_unused_rows(grad_row_weights, groups);
      }
      grad_hidden.mul_(row_weights);
      weighted_grad = (grad_output * row_weights).to(grad_output.dtype());
    }
    const SwigluBackward inner = swiglu_backward_and_hidden(grad_hidden, saved[4]);
    at::Tensor grad_rows, grad_gate_up, grad_down;
    if (context->needs_input_grad(0)) {
      grad_rows = multiply_rows(inner.grad_gate_up, gate_up, groups);
      zero_unused_rows(grad_rows, groups);
    }
    if (context->needs_input_grad(1)) grad_gate_up = multiply_columns(inner.grad_gate_up, rows, groups);
    if (context->needs_input_grad(2)) grad_down = multiply_columns(weighted_grad, inner.hidden, groups);
    return {grad_rows, grad_gate_up, grad_down, at::Tensor(), grad_row_weights};
  }

 private:
  static FusedMlp fused(const at::Tensor& rows, const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& ends,
                        const at::Tensor& row_weights) {
    return {.input = rows,
            .gate_up = gate_up,
            .down = down,
            .ends = ends,
            .weights = row_weights,
            .weigh_hidden = row_weights.defined(),
            .rows = rows.size(0)};
  }
};

}  // namespace

at::Tensor grouped_linear_layer(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& ends) {
  check_rows("rows", rows, rows);
  check_ends(ends, rows);
  check_weights("weights", weights, ends.numel(), rows);
  check_shape(weights.size(2) == rows.size(1), "weights ", describe(weights), " must have the columns of rows ", describe(rows));
  return GroupedLinear::apply(rows, weights, ends);
}

at::Tensor linear_layer(const at::Tensor& rows, const at::Tensor& weight) {
  if (!has_tile_product(rows) || rows.numel() == 0 || rows.size(-1) % 2 != 0 || weight.size(0) % 2 != 0) return at::linear(rows, weight);
  const at::Tensor flat = rows.reshape({-1, rows.size(-1)});
  const at::Tensor ends = at::full({1}, flat.size(0), at::kInt);
  std::vector<int64_t> shape = rows.sizes().vec();
  shape.back() = weight.size(0);
  return grouped_linear_layer(flat, weight.unsqueeze(0), ends).view(shape);
}

at::Tensor grouped_swiglu_mlp(const at::Tensor& rows, const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& ends,
                              const at::Tensor& row_weights) {
  check_rows("rows", rows, rows);
  check_ends(ends, rows);
  check_weights("gate_up", gate_up, ends.numel(), rows);
  check_weights("down", down, ends.numel(), rows);
  check_shape(gate_up.size(2) == rows.size(1) && down.size(1) == rows.size(1) && gate_up.size(1) == 2 * down.size(2),
              "grouped_swiglu_mlp: rows ", describe(rows), ", gate_up ", describe(gate_up), ", down ", describe(down),
              "; needs [R, D], [G, 2F, D], [G, D, F]");
  if (row_weights.defined()) {
    check_shape(row_weights.dim() == 2 && row_weights.size(0) == rows.size(0) && row_weights.size(1) == 1, "row_weights is ",
                describe(row_weights), ", needs [", rows.size(0), ", 1]");
    check_operand("row_weights", row_weights, arithmetic_type(rows), rows);
  }
  return GroupedSwigluMlp::apply(rows, gate_up, down, ends, row_weights.defined() ? std::optional(row_weights) : std::nullopt);
}

}  // namespace pimoe
