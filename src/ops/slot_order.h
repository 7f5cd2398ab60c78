#pragma once

#include <ATen/core/Tensor.h>

namespace pimoe {

/// Slots sorted by expert, in token order inside each expert (a stable counting sort). Slots of no expert have no place.
struct SlotOrder {
  at::Tensor slots;      ///< [N] int32: slots[r] is the slot whose row stands at place r; 0 past the last place that is taken
  at::Tensor positions;  ///< [N] int32: the inverse, positions[slots[r]] = r; -1 for a slot of no expert
  at::Tensor counts;     ///< [E] int64: slots of each expert
};

/// @param experts  [N] int32 on any device, each in [0, E), or -1 for a slot that goes nowhere; slot t*K + k is choice k of token t.
///         Others are a ShapeError on a CPU. On a GPU nobody looks: they go nowhere, as -1 does (model.moe.validate has a check). @cost two passes over N; no host synchronisation
SlotOrder order_by_expert(const at::Tensor& experts, int64_t expert_count);

}  // namespace pimoe
