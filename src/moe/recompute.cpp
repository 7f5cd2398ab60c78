#include "moe/recompute.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace pimoe {
namespace {

/// A Region in the form that an autograd context stores.
struct RegionHolder : torch::CustomClassHolder {
  explicit RegionHolder(Region held) : region(std::move(held)) {}
  Region region;
};

class Recompute : public torch::autograd::Function<Recompute> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, at::TensorList inputs,
                                                const c10::intrusive_ptr<RegionHolder>& holder) {
    context->save_for_backward(inputs.vec());
    context->saved_data["region"] = c10::IValue::make_capsule(holder);
    return holder->region(inputs.vec());  // autograd is off inside a Function's forward
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto capsule = context->saved_data["region"].toCapsule();
    const Region& region = static_cast<const RegionHolder&>(*capsule).region;
    const at::AutoGradMode with_gradients(true);
    torch::autograd::variable_list inputs = context->get_saved_variables();
    for (size_t index = 0; index < inputs.size(); ++index) {
      inputs[index] = inputs[index].detach().set_requires_grad(context->needs_input_grad(index));
    }

    torch::autograd::variable_list outputs;
    torch::autograd::variable_list arrived;
    const auto again = region(inputs);
    for (size_t index = 0; index < again.size(); ++index) {
      if (!gradients[index].defined() || !again[index].requires_grad()) continue;
      outputs.push_back(again[index]);
      arrived.push_back(gradients[index]);
    }
    torch::autograd::backward(outputs, arrived);
    torch::autograd::variable_list results;
    for (const at::Tensor& input : inputs) results.push_back(input.grad());
    results.emplace_back();  // the region has no gradient
    return results;
  }
};

}  // namespace

std::vector<at::Tensor> recompute(const Region& region, const std::vector<at::Tensor>& inputs) {
  return Recompute::apply(at::TensorList(inputs), c10::make_intrusive<RegionHolder>(region));
}

}  // namespace pimoe
