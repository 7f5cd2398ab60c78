#include "ops/fused_mlp.h"

#include "ops/fused_mlp_tiles.h"
#include "ops/gradient_sink.h"
#include "ops/launch.h"
#include "ops/row_moves.h"
#include "ops/tile_product.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <limits>

namespace pimoe {
namespace {

/// Tensors that TMA reads begin at multiples of 16 bytes, and so do their rows.
bool is_readable(const at::Tensor& tensor) {
  return tensor.is_contiguous() && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0 && tensor.numel() > 0;
}

const int32_t* integers(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<int32_t>() : nullptr; }

GroupedMlpArguments arguments_of(const FusedMlp& mlp) {
  GroupedMlpArguments arguments{};
  arguments.rows = mlp.rows;
  arguments.groups = mlp.ends.numel();
  arguments.width = mlp.input.size(1);
  arguments.hidden_width = mlp.down.size(2);
  arguments.ends = integers(mlp.ends);
  arguments.row_tokens = integers(mlp.row_tokens);
  arguments.weights = mlp.weights.defined() ? mlp.weights.const_data_ptr<float>() : nullptr;
  arguments.slots = integers(mlp.slots);
  arguments.weigh_hidden = mlp.weigh_hidden;
  arguments.input = mlp.input.const_data_ptr();
  arguments.gate_up = mlp.gate_up.const_data_ptr();
  arguments.down = mlp.down.const_data_ptr();
  return arguments;
}

at::Tensor matrix(int64_t rows, int64_t columns, const at::Tensor& like) {
  return at::empty({rows, columns}, like.options().requires_grad(false));
}

/// Runs `kernels` with the device current; without CUDA there is nothing that fuses_mlp says yes to.
template <class Kernels>
void run(const at::Tensor& on, [[maybe_unused]] const Kernels& kernels) {
  if constexpr (kCudaBuild) {
    const c10::DeviceGuard guard(on.device());
    kernels();
  }
}

/// Has `kernels` put the gradient of `weight` into its sink, or into a tensor, which is returned.
template <class Kernels>
at::Tensor weight_gradient(const at::Tensor& weight, const Kernels& kernels) {
  GradientSink* const sink = gradient_sink_of(weight);
  if (sink == nullptr) {
    at::Tensor gradient = at::empty_like(weight);
    run(weight, [&] { kernels(GradientOutput{.data = gradient.mutable_data_ptr()}); });
    return gradient;
  }
  const GradientSink::Room room = sink->begin();
  run(weight, [&] { kernels(GradientOutput{.data = room.sum.mutable_data_ptr(), .is_sum = true, .adds = room.adds}); });
  sink->end();
  return {};
}

}  // namespace

bool has_mlp_kernels(c10::Device device) {
  if (device.is_cpu()) return has_tile_product();
  if constexpr (kCudaBuild) {
    if (!device.is_cuda()) return false;
    const c10::DeviceGuard guard(device);
    return cuda::has_grouped_mlp();
  }
  return false;
}

bool fuses_mlp(const at::Tensor& input, const at::Tensor& gate_up, const at::Tensor& down) {
  if (input.is_cpu()) {
    return has_tile_product(input) && input.size(1) % 2 == 0 && down.size(2) % 2 == 0 && input.numel() > 0 && gate_up.numel() > 0 &&
           input.is_contiguous() && gate_up.is_contiguous() && down.is_contiguous();
  }
  return input.scalar_type() == at::kBFloat16 && input.size(1) % 8 == 0 && down.size(2) % 8 == 0 &&
         input.size(0) <= std::numeric_limits<int32_t>::max() && has_mlp_kernels(input.device()) && is_readable(input) &&
         is_readable(gate_up) && is_readable(down);
}

FusedMlpResult fused_mlp(const FusedMlp& mlp) {
  if (mlp.input.is_cpu()) return fused_mlp_by_tiles(mlp);
  GroupedMlpArguments arguments = arguments_of(mlp);
  FusedMlpResult result{matrix(mlp.rows, arguments.width, mlp.input), matrix(mlp.rows, 2 * arguments.hidden_width, mlp.input)};
  const at::Tensor hidden = matrix(mlp.rows, arguments.hidden_width, mlp.input);
  arguments.gate_up_rows = result.gate_up_rows.mutable_data_ptr();
  arguments.hidden = hidden.mutable_data_ptr();
  arguments.output = result.rows.mutable_data_ptr();
  run(mlp.input, [&] { cuda::grouped_mlp(arguments); });
  return result;
}

FusedMlpRowGradients fused_mlp_backward(const FusedMlp& mlp, const at::Tensor& gate_up_rows, const at::Tensor& grad_output,
                                        FusedMlpWanted wanted) {
  if (mlp.input.is_cpu()) return fused_mlp_backward_by_tiles(mlp, gate_up_rows, grad_output, wanted);
  GroupedMlpArguments arguments = arguments_of(mlp);
  FusedMlpRowGradients result;
  result.grad_gate_up_rows = at::empty_like(gate_up_rows);
  result.hidden = matrix(mlp.rows, arguments.hidden_width, mlp.input);
  result.turns = at::empty({2 * turn_bytes(arguments.groups)}, mlp.input.options().dtype(at::kByte).requires_grad(false));
  if (wanted.rows) result.rows = matrix(mlp.rows, arguments.width, mlp.input);
  at::Tensor dots;
  if (wanted.weights) dots = at::empty({weight_dot_parts(arguments.hidden_width), mlp.rows}, mlp.input.options().dtype(at::kFloat));
  // Only read; kernels.h has one pointer for both directions.
  arguments.gate_up_rows = const_cast<void*>(gate_up_rows.const_data_ptr());
  arguments.grad_output = grad_output.const_data_ptr();
  arguments.grad_gate_up_rows = result.grad_gate_up_rows.mutable_data_ptr();
  arguments.hidden = result.hidden.mutable_data_ptr();
  arguments.weight_dots = dots.defined() ? dots.mutable_data_ptr<float>() : nullptr;
  arguments.grad_rows = wanted.rows ? result.rows.mutable_data_ptr() : nullptr;
  arguments.turns = result.turns.mutable_data_ptr();
  run(mlp.input, [&] { cuda::grouped_mlp_backward(arguments); });
  if (wanted.weights) {
    const int64_t slots = mlp.positions.defined() ? mlp.positions.numel() : mlp.rows;
    result.weights = at::empty({slots}, dots.options());
    run(mlp.input, [&] {
      cuda::sum_weight_dots(dots.const_data_ptr<float>(), integers(mlp.positions), result.weights.mutable_data_ptr<float>(),
                            arguments.hidden_width, mlp.rows, slots);
    });
  }
  return result;
}

at::Tensor fused_mlp_gate_up_gradient(const FusedMlp& mlp, const FusedMlpRowGradients& of_rows) {
  if (mlp.input.is_cpu()) return fused_mlp_gate_up_gradient_by_tiles(mlp, of_rows);
  GroupedMlpArguments arguments = arguments_of(mlp);
  arguments.grad_gate_up_rows = of_rows.grad_gate_up_rows.mutable_data_ptr();
  arguments.turns = of_rows.turns.mutable_data_ptr();
  at::Tensor rows;
  if (mlp.row_tokens.defined()) {
    check_shape(mlp.positions.defined(), "the gradient of gathered rows needs their positions");
    // Gathering in the product costs more than a pass before it: rows are the sum's terms, and a tile takes others at each step.
    rows = rows_of_tokens(mlp.input, mlp.positions, mlp.positions.numel() / mlp.input.size(0), mlp.rows);
    arguments.input = rows.const_data_ptr();
  }
  return weight_gradient(mlp.gate_up, [&](const GradientOutput& output) { cuda::grouped_mlp_gate_up_gradient(arguments, output); });
}

at::Tensor fused_mlp_down_gradient(const FusedMlp& mlp, const FusedMlpRowGradients& of_rows, const at::Tensor& grad_output) {
  if (mlp.input.is_cpu()) return fused_mlp_down_gradient_by_tiles(mlp, of_rows, grad_output);
  GroupedMlpArguments arguments = arguments_of(mlp);
  arguments.grad_output = grad_output.const_data_ptr();  // gathered in the product: it is the smaller side, and a pass would gain nothing
  arguments.hidden = of_rows.hidden.mutable_data_ptr();
  arguments.turns = of_rows.turns.mutable_data_ptr();
  return weight_gradient(mlp.down, [&](const GradientOutput& output) { cuda::grouped_mlp_down_gradient(arguments, output); });
}

}  // namespace pimoe
