#include "ops/slot_order.h"

#include "ops/launch.h"

#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <limits>

namespace pimoe {

SlotOrder order_by_expert(const at::Tensor& experts, int64_t expert_count) {
  check_shape(experts.dim() == 1 && expert_count >= 0, "order_by_expert: experts is ", describe(experts), ", expert_count ", expert_count,
              "; needs [N] and a count of at least 0");
  check_operand("experts", experts, at::kInt, experts);
  const int64_t slots = experts.numel();
  check_shape(slots <= std::numeric_limits<int32_t>::max(), "order_by_expert: ", slots, " slots do not fit int32");

  SlotOrder order;
  order.slots = at::zeros({slots}, experts.options());
  order.positions = at::full({slots}, -1, experts.options());
  order.counts = at::zeros({expert_count}, experts.options().dtype(at::kLong));
  if (slots == 0) return order;
  const SlotOrderArguments arguments{slots,
                                     expert_count,
                                     experts.const_data_ptr<int32_t>(),
                                     order.slots.mutable_data_ptr<int32_t>(),
                                     order.positions.mutable_data_ptr<int32_t>(),
                                     order.counts.mutable_data_ptr<int64_t>()};
  if (experts.is_cpu()) {
    const int64_t wrong = cpu::order_by_expert(arguments);
    if (wrong >= 0) {
      throw ShapeError(concat("order_by_expert: experts[", wrong, "] (", arguments.experts[wrong], ") must be in [0, ", expert_count,
                              "), or -1 for none"));
    }
    return order;
  }
  if constexpr (kCudaBuild) {
    const c10::DeviceGuard guard(experts.device());
    const int64_t tiles = (slots + cuda::kSlotTile - 1) / cuda::kSlotTile;
    const at::Tensor tile_counts = at::empty({expert_count * tiles}, experts.options());
    cuda::count_slot_tiles(arguments, tile_counts.mutable_data_ptr<int32_t>());
    const at::Tensor running_sum = at::cumsum(tile_counts, 0, at::kInt);
    cuda::place_slots(arguments, running_sum.const_data_ptr<int32_t>());
  }
  return order;
}

}  // namespace pimoe
