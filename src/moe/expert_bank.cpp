#include "moe/expert_bank.h"

#include "ops/grouped_product.h"

namespace pimoe {

ExpertBank::ExpertBank(ParameterList& parameters, const std::string& name, const ExpertPlacement& placement, int64_t width, int64_t hidden,
                       at::ScalarType dtype, InitialDeviation deviation)
    : gate_up_(&declare_weight(parameters, name + ".gate_up.weight",
                               Box::rows({placement.experts(), 2 * hidden, width}, placement.first_local(), placement.local()),
                               Group::kExpertReplica, dtype, deviation.inner)),
      down_(&declare_weight(parameters, name + ".down.weight",
                            Box::rows({placement.experts(), width, hidden}, placement.first_local(), placement.local()),
                            Group::kExpertReplica, dtype, deviation.output)) {}

at::Tensor ExpertBank::forward(const at::Tensor& rows, const at::Tensor& ends) const {
  return grouped_swiglu_mlp(rows, gate_up_->value, down_->value, ends);
}

}  // namespace pimoe
