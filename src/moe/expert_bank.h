#pragma once

#include "moe/expert_placement.h"
#include "moe/weights.h"

namespace pimoe {

/// The experts of one shape that this rank holds.
class ExpertBank {
 public:
  /// Declares name.gate_up.weight [E, 2F, D] and name.down.weight [E, D, F]; this rank holds rows [first_local, first_local + L).
  ExpertBank(ParameterList& parameters, const std::string& name, const ExpertPlacement& placement, int64_t width, int64_t hidden,
             at::ScalarType dtype, InitialDeviation deviation);
  /// @param rows  [R, D] contiguous, of the experts' dtype, R may be 0
  /// @param ends  [L] int32 as in DispatchPlan
  /// @returns [R, D]; differentiable; see grouped_swiglu_mlp for cost
  at::Tensor forward(const at::Tensor& rows, const at::Tensor& ends) const;

 private:
  Parameter* gate_up_;
  Parameter* down_;
};

}  // namespace pimoe
