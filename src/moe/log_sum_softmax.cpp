#include "moe/log_sum_softmax.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <torch/csrc/autograd/custom_function.h>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class LogSumSoftmax : public torch::autograd::Function<LogSumSoftmax> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& logits) {
    const at::Tensor scores = at::softmax(logits, -1);
    context->save_for_backward({scores});
    context->set_materialize_grads(false);
    return {scores, at::logsumexp(logits, -1)};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const at::Tensor scores = context->get_saved_variables()[0];
    at::Tensor of_logits;
    if (grads[0].defined()) of_logits = at::_softmax_backward_data(grads[0], scores, -1, scores.scalar_type());
    if (grads[1].defined()) {
      const at::Tensor of_log_sum = scores * grads[1].unsqueeze(-1);
      of_logits = of_logits.defined() ? of_logits.add_(of_log_sum) : of_log_sum;
    }
    return {of_logits};
  }
};

}  // namespace

std::pair<at::Tensor, at::Tensor> log_sum_softmax(const at::Tensor& logits) {
  const variable_list both = LogSumSoftmax::apply(logits);
  return {both[0], both[1]};
}

}  // namespace pimoe
