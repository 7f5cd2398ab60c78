#include "ops/softmax_top_k.h"

#include "ops/launch.h"
#include "ops/top_k.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool has_kernel(const at::Tensor& logits, int64_t choices) {
  return logits.is_cuda() && logits.size(0) > 0 && logits.size(1) <= kMostExpertsOfWarp && choices <= 32;
}

const void* data_of(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }

/// @returns [T, 1] what gates are divided by
at::Tensor divisor_of(const at::Tensor& gates, double tiny) { return gates.sum(-1, true).clamp_min(tiny); }

/// @returns the gradient of scores that comes through the gates, [T, K] of the chosen ones
at::Tensor through_gates(const at::Tensor& of_gates, const at::Tensor& scores, bool renormalize, double tiny) {
  if (!renormalize) return of_gates;
  const at::Tensor divisor = divisor_of(scores, tiny);
  const at::Tensor mean = (of_gates * scores).sum(-1, true) / divisor;
  // Where the sum is less than `tiny`, it is that, and moves with nothing.
  return (of_gates - mean * (divisor > tiny).to(mean.scalar_type())) / divisor;
}

class SoftmaxTopKFunction : public torch::autograd::Function<SoftmaxTopKFunction> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& logits, const at::Tensor& bias,
                               const std::optional<at::Tensor>& taken, int64_t choices, bool renormalize, double tiny) {
    const int64_t tokens = logits.size(0);
    at::Tensor scores, log_sum, gates;
    at::Tensor chosen = taken ? *taken : at::Tensor();
    if (has_kernel(logits, choices)) {
      scores = at::empty_like(logits);
      log_sum = at::empty({tokens}, logits.options());
      gates = at::empty({tokens, choices}, logits.options());
      if (!taken.has_value()) chosen = at::empty({tokens, choices}, logits.options().dtype(at::kInt));
      const SoftmaxTopKArguments arguments{.dtype = dtype_of(logits),
                                           .experts = logits.size(1),
                                           .choices = choices,
                                           .renormalize = renormalize,
                                           .chooses = !taken.has_value(),
                                           .tiny = tiny,
                                           .logits = logits.const_data_ptr(),
                                           .bias = bias.const_data_ptr(),
                                           .scores = scores.mutable_data_ptr(),
                                           .log_sum = log_sum.mutable_data_ptr(),
                                           .chosen = chosen.mutable_data_ptr<int32_t>(),
                                           .gates = gates.mutable_data_ptr()};
      if constexpr (kCudaBuild) {
        const c10::DeviceGuard guard(logits.device());
        cuda::softmax_top_k(arguments, tokens);
      }
    } else {
      scores = at::softmax(logits, -1);
      log_sum = at::logsumexp(logits, -1);
      if (!taken.has_value()) chosen = top_k(scores + bias, choices);
      gates = scores.gather(1, chosen.to(at::kLong));
      if (renormalize) gates = gates / divisor_of(gates, tiny);
    }
    context->save_for_backward({scores, chosen});
    context->saved_data["renormalize"] = renormalize;
    context->saved_data["tiny"] = tiny;
    context->mark_non_differentiable({chosen});
    context->set_materialize_grads(false);
    return {scores, log_sum, chosen, gates};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& scores = saved[0];
    const at::Tensor& chosen = saved[1];
    const bool renormalize = context->saved_data["renormalize"].toBool();
    const double tiny = context->saved_data["tiny"].toDouble();
    at::Tensor of_logits;
    if (has_kernel(scores, chosen.size(1))) {
      of_logits = at::empty_like(scores);
      // A sum over tokens has the same gradient for each: a row of stride 0, which is read as it is.
      const bool is_shared = grads[0].defined() && grads[0].stride(0) == 0 && grads[0].stride(1) == 1;
      const at::Tensor of_scores = grads[0].defined() && !is_shared ? grads[0].contiguous() : grads[0];
      const at::Tensor of_log_sum = grads[1].defined() ? grads[1].contiguous() : grads[1];
      const at::Tensor of_gates = grads[3].defined() ? grads[3].contiguous() : grads[3];
      const SoftmaxTopKGradients arguments{.dtype = dtype_of(scores),
                                           .experts = scores.size(1),
                                           .choices = chosen.size(1),
                                           .renormalize = renormalize,
                                           .tiny = tiny,
                                           .scores = scores.const_data_ptr(),
                                           .chosen = chosen.const_data_ptr<int32_t>(),
                                           .of_scores = data_of(of_scores),
                                           .of_scores_stride = is_shared ? 0 : scores.size(1),
                                           .of_log_sum = data_of(of_log_sum),
                                           .of_gates = data_of(of_gates),
                                           .of_logits = of_logits.mutable_data_ptr()};
      if constexpr (kCudaBuild) {
        const c10::DeviceGuard guard(scores.device());
        cuda::softmax_top_k_backward(arguments, scores.size(0));
      }
    } else {
      at::Tensor of_scores = grads[0];
      if (grads[3].defined()) {
        const at::Tensor index = chosen.to(at::kLong);
        of_scores = of_scores.defined() ? of_scores.clone(at::MemoryFormat::Contiguous) : at::zeros_like(scores);
        of_scores.scatter_add_(1, index, through_gates(grads[3], scores.gather(1, index), renormalize, tiny));
      }
      if (of_scores.defined()) of_logits = at::_softmax_backward_data(of_scores, scores, -1, scores.scalar_type());
      if (grads[1].defined()) {
        const at::Tensor of_log_sum = scores * grads[1].unsqueeze(-1);
        of_logits = of_logits.defined() ? of_logits.add_(of_log_sum) : of_log_sum;
      }
    }
    return {of_logits, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

SoftmaxTopK softmax_top_k(const at::Tensor& logits, const SoftmaxTopKTerms& terms) {
  check_shape(logits.dim() == 2 && (logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kDouble), "softmax_top_k: logits is ",
              describe(logits), ", needs [T, E] in float32 or float64");
  check_operand("logits", logits, logits.scalar_type(), logits);
  check_operand("bias", terms.bias, logits.scalar_type(), logits);
  const int64_t experts = logits.size(1);
  check_shape(terms.bias.dim() == 1 && terms.bias.size(0) == experts, "softmax_top_k: bias is ", describe(terms.bias), ", needs [", experts,
              "]");
  check_shape(1 <= terms.choices && terms.choices <= experts, "softmax_top_k: choices (", terms.choices, ") must be in [1, ", experts,
              "], the columns of logits ", describe(logits));
  if (terms.chosen.defined()) {
    check_operand("chosen", terms.chosen, at::kInt, logits);
    check_shape(terms.chosen.dim() == 2 && terms.chosen.size(0) == logits.size(0) && terms.chosen.size(1) == terms.choices,
                "softmax_top_k: chosen is ", describe(terms.chosen), ", needs [", logits.size(0), ", ", terms.choices, "]");
  }
  const std::optional<at::Tensor> taken = terms.chosen.defined() ? std::optional(terms.chosen) : std::nullopt;
  const variable_list results = SoftmaxTopKFunction::apply(logits, terms.bias, taken, terms.choices, terms.renormalize, terms.tiny);
  return {.scores = results[0], .log_sum = results[1], .chosen = results[2], .gates = results[3]};
}

}  // namespace pimoe
