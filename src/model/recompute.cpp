#include "model/recompute.h"

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
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                                                const c10::intrusive_ptr<RegionHolder>& holder) {
    context->save_for_backward({input});
    context->saved_data["region"] = c10::IValue::make_capsule(holder);
    return holder->region(input);  // autograd is off inside a Function's forward
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto capsule = context->saved_data["region"].toCapsule();
    const Region& region = static_cast<const RegionHolder&>(*capsule).region;
    const at::AutoGradMode with_gradients(true);
    const at::Tensor input = context->get_saved_variables()[0].detach().set_requires_grad(true);

    torch::autograd::variable_list outputs;
    torch::autograd::variable_list arrived;
    const auto again = region(input);
    for (size_t index = 0; index < again.size(); ++index) {
      if (!gradients[index].defined() || !again[index].requires_grad()) continue;
      outputs.push_back(again[index]);
      arrived.push_back(gradients[index]);
    }
    torch::autograd::backward(outputs, arrived);
    return {input.grad(), at::Tensor()};
  }
};

}  // namespace

std::vector<at::Tensor> recompute(const Region& region, const at::Tensor& input) {
  return Recompute::apply(input, c10::make_intrusive<RegionHolder>(region));
}

}  // namespace pimoe
