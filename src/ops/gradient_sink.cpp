#include "ops/gradient_sink.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

namespace pimoe {

GradientSink* gradient_sink_of(const at::Tensor& leaf) {
  if (!leaf.defined() || !leaf.is_leaf() || !leaf.requires_grad()) return nullptr;
  if (!torch::autograd::impl::hooks(leaf).empty()) return nullptr;  // somebody wants to see the gradient
  return dynamic_cast<GradientSink*>(torch::autograd::impl::post_acc_grad_hooks(leaf).get());
}

}  // namespace pimoe
