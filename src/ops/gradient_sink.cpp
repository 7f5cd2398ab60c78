#include "ops/gradient_sink.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

namespace pimoe {

GradientSink* gradient_sink_of(const at::Tensor& leaf) {
  if (!leaf.defined() || !leaf.is_leaf() || !leaf.requires_grad()) return nullptr;
  if (!torch::autograd::impl::hooks(leaf).empty()) return nullptr;  // somebody wants to see the gradient
  return dynamic_cast<GradientSink*>(torch::autograd::impl::post_acc_grad_hooks(leaf).get());
}

void add_to_sum(const at::Tensor& sum, const at::Tensor& term) {
  constexpr int64_t kPart = int64_t{1} << 18;  // numbers
  const bool in_parts =
      sum.is_cpu() && sum.scalar_type() != term.scalar_type() && sum.numel() > kPart && sum.is_contiguous() && term.is_contiguous();
  if (!in_parts) {
    sum.add_(term);
    return;
  }
  const at::Tensor to = sum.view({-1}), from = term.view({-1});
  for (int64_t begin = 0; begin < to.numel(); begin += kPart) {
    const int64_t count = std::min(kPart, to.numel() - begin);
    to.narrow(0, begin, count).add_(from.narrow(0, begin, count));
  }
}

}  // namespace pimoe
