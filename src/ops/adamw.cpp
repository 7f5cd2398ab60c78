#include "ops/adamw.h"

#include "ops/launch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

namespace pimoe {
namespace {

AdamwArguments arguments_of(const AdamwState& state, AdamwSums& sums) {
  check_shape(state.master.dim() == 1 && (state.master.scalar_type() == at::kFloat || state.master.scalar_type() == at::kDouble),
              "adamw: the master is ", describe(state.master), ", needs [N] in float32 or float64");
  const auto check = [&state](const char* name, const at::Tensor& tensor, at::ScalarType dtype) {
    check_operand(name, tensor, dtype, state.master);
    check_shape(tensor.sizes() == state.master.sizes(), name, " of adamw is ", describe(tensor), ", the master ", describe(state.master));
    check_shape(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0, name, " of adamw is not at a multiple of 16 bytes");
  };
  check("master", state.master, state.master.scalar_type());
  check("exp_avg", state.exp_avg, state.master.scalar_type());
  check("exp_avg_sq", state.exp_avg_sq, state.master.scalar_type());
  check_shape(sums.begins.back() == state.master.numel(), "adamw: the sums are of ", sums.begins.back(), " elements, the master is ",
              describe(state.master));
  check_operand("sums", sums.sums, at::kLong, state.master);

  AdamwArguments arguments{};
  arguments.dtype = arguments.weight_dtype = dtype_of(state.master);
  arguments.master = state.master.mutable_data_ptr();
  arguments.exp_avg = state.exp_avg.mutable_data_ptr();
  arguments.exp_avg_sq = state.exp_avg_sq.mutable_data_ptr();
  if (state.weights.defined()) {
    const at::ScalarType rounded = state.weights.scalar_type();
    check_shape(state.master.scalar_type() == at::kFloat && (rounded == at::kBFloat16 || rounded == at::kHalf), "adamw: the weights are ",
                describe(state.weights), ", the master ", describe(state.master), ": needs bfloat16 or float16 beside float32");
    check("weights", state.weights, rounded);
    arguments.weight_dtype = dtype_of(state.weights);
    arguments.weights = state.weights.mutable_data_ptr();
  }
  arguments.begins = sums.device_begins.const_data_ptr<int64_t>();
  arguments.sums = reinterpret_cast<uint64_t*>(sums.sums.mutable_data_ptr<int64_t>());
  arguments.changed = sums.changed.mutable_data_ptr<uint8_t>();
  arguments.found = reinterpret_cast<unsigned long long*>(sums.found.mutable_data_ptr<int64_t>());
  return arguments;
}

void run(const AdamwArguments& arguments, const at::Tensor& master, const AdamwSums& sums) {
  const auto chunks = static_cast<int64_t>(sums.begins.size()) - 1;
  launch(
      master, chunks, 7 * kAdamwChunk * master.element_size(), [&](int64_t begin, int64_t end) { cpu::adamw(arguments, begin, end); },
      [&] { cuda::adamw(arguments, chunks); });
}

}  // namespace

AdamwSums::AdamwSums(const std::vector<int64_t>& firsts, int64_t numel, const at::Tensor& of_all) : found(of_all) {
  const bool is_plan = found.is_meta();  // of shapes alone: to list the chunks of 1e12 parameters would take minutes and gigabytes
  int64_t chunks = 0;
  for (size_t tensor = 0; tensor < firsts.size(); ++tensor) {
    const int64_t first = firsts[tensor];
    const int64_t next = tensor + 1 < firsts.size() ? firsts[tensor + 1] : numel;
    check_shape(first % kFlatAlignment == 0 && first <= next && (tensor > 0 || first == 0), "adamw: tensors may not begin at ", firsts,
                " of ", numel, " elements: needs ascending multiples of ", kFlatAlignment, ", 0 first");
    chunks += (next - first + kAdamwChunk - 1) / kAdamwChunk;
    if (is_plan) continue;
    for (int64_t begin = first; begin < next; begin += kAdamwChunk) begins.push_back(begin);
  }
  begins.push_back(numel);
  const at::TensorOptions options = found.options();
  device_begins = is_plan ? at::empty({chunks + 1}, options) : at::tensor(begins, at::kLong).to(options.device());
  sums = at::zeros({chunks, 3}, options);
  changed = at::zeros({chunks}, options.dtype(at::kByte));
}

void adamw(const AdamwStep& step, const at::Tensor& gradient, const AdamwState& state, AdamwSums& sums) {
  AdamwArguments arguments = arguments_of(state, sums);
  check_operand("gradient", gradient, state.master.scalar_type(), state.master);
  check_shape(gradient.sizes() == state.master.sizes(), "adamw: the gradient is ", describe(gradient), ", the master ",
              describe(state.master));
  check_shape(reinterpret_cast<uintptr_t>(gradient.const_data_ptr()) % 16 == 0, "adamw: the gradient is not at a multiple of 16 bytes");
  const auto number = static_cast<double>(step.number);
  arguments.gradient = gradient.const_data_ptr();
  arguments.gradient_factor = step.gradient_factor;
  arguments.kept = 1.0 - step.learning_rate * step.weight_decay;
  arguments.first_rate = 1.0 - step.beta1;
  arguments.second_kept = step.beta2;
  arguments.second_rate = 1.0 - step.beta2;
  arguments.root_scale = 1.0 / std::sqrt(1.0 - std::pow(step.beta2, number));
  arguments.epsilon = step.epsilon;
  arguments.step_size = step.learning_rate / (1.0 - std::pow(step.beta1, number));
  run(arguments, state.master, sums);
}

void compare_state(const AdamwState& state, AdamwSums& sums) { run(arguments_of(state, sums), state.master, sums); }

}  // namespace pimoe
